"""The keeper starts at once: nothing heavy, no third-party package at all."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["lorakit.bake.keeper", "lorakit.archive.records", "lorakit.archive.seal", "lorakit.bake.bake"]
)
def test_it_imports_the_standard_library_and_lorakit_only(module: str) -> None:
    program = (
        f"import sys, {module}; import json; "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))))"
    )
    # -I -S: without site-packages it would not even find one.
    import lorakit

    path = lorakit.__file__.rpartition("/lorakit/")[0]
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {path!r}); {program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '["__main__", "lorakit"]'
