"""Whatever stands in a run's records and headers: no traceback, no hang, no memory for what a file only claims."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorakit.archive.facts import facts
from lorakit.archive.records import state
from lorakit.archive.run import Run
from lorakit.archive.seal import verify
from lorakit.archive.tensors import safetensors_fault
from lorakit.errors import LorakitError, ModelFileError
from lorakit.evidence.tensor_file import TensorFile
from tests.cli.made_runs import make_run

#: What lorakit itself writes there, so that values of a wrong kind stand under right names too.
_NAMES = (
    "schema", "time", "status", "reason", "message", "steps", "total_steps", "loss_first", "checkpoints", "log_tail",
    "keeper", "pid", "ticks", "boot_id", "host", "seconds", "lineage", "argv", "name", "tags", "images", "files", "evidence",
)  # fmt: skip
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    "record", ["request", "plan", "dataset", "command_json", "environment", "tags", "started", "ended"]
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=_VALUES, cut=st.integers(0, 40) | st.none())
def test_any_json_may_stand_in_a_record(run: Run, record: str, value: Any, cut: int | None) -> None:
    path: Path = getattr(run.attempt(1), record) if record in ("started", "ended") else getattr(run, record)
    before = path.read_bytes()
    try:
        path.write_bytes(json.dumps(value).encode()[:cut])
        found = state(run)
        json.dumps(found.to_json())
        facts(run, found)
        verify(run)
    except LorakitError:
        pass  # said in words
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("claimed", [10 * 2**30, 2**63, 99_999_999])
def test_a_header_that_claims_gigabytes_takes_none(claimed: int, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes(struct.pack("<Q", claimed) + b'{"a":' + b" " * 1000)
    with pytest.raises(ModelFileError):
        TensorFile(path)  # once before, for what is imported
    tracemalloc.start()
    try:
        path.write_bytes(path.read_bytes() + b" ")  # nothing of it is remembered
        assert safetensors_fault(path)
        with pytest.raises(ModelFileError):
            TensorFile(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_a_tensor_that_claims_gigabytes_is_cut_off(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}).encode()
    path = tmp_path / "lora.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    fault = safetensors_fault(path)
    assert fault is not None
    assert fault.startswith("it is cut off")
    with pytest.raises(ModelFileError, match="cut off"):
        TensorFile(path)
