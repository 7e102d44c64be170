"""On macOS and Windows everything imports, the archive can be read, and starting a run is refused in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorakit.archive.seal import seal
from tests.archive.made import born, ended

#: Takes away what those systems do not have, after the standard library has been loaded.
ELSEWHERE = """
import sys, os, signal, json, subprocess, threading, sqlite3, tempfile, concurrent.futures, getpass, difflib, ctypes, secrets
import dataclasses, enum, platform, shutil, socket, tomllib, unicodedata, importlib.metadata, inspect, pydantic, typing
from pathlib import Path
sys.platform = sys.argv[1]
for name in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[name] = None
lacking = {"win32": ["fork", "getuid", "geteuid", "setpgid", "killpg", "WIFEXITED", "waitstatus_to_exitcode", "O_CLOEXEC"]}
for name in [*lacking.get(sys.platform, []), "sched_getaffinity"]:
    if hasattr(os, name):
        delattr(os, name)
lacking = {"win32": ["SIGKILL", "SIGHUP", "SIGUSR1", "SIGCHLD", "pthread_sigmask"]}
for name in [*lacking.get(sys.platform, []), "sigtimedwait"]:
    delattr(signal, name)
import lorakit.bake.bake, lorakit.bake.prepare, lorakit.bake.keeper, lorakit.bake.relay, lorakit.launch.supervisor
import lorakit.launch.environment, lorakit.archive.birth
from lorakit.archive.records import state
from lorakit.archive.run import list_runs
from lorakit.archive.seal import verify
from lorakit.errors import TrainerError
(run,) = list_runs(Path(sys.argv[2]))
print(state(run).status.value, len(verify(run)))
try:
    lorakit.bake.bake.bake(None, None)
except TrainerError as error:
    print(error.what)
"""


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_other_systems(tmp_path: Path, platform: str) -> None:
    seal(ended(born(tmp_path)), 1)
    command = [sys.executable, "-c", ELSEWHERE, platform, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"ok 0\na training cannot be started on {platform}\n", done.stderr
