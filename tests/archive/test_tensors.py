"""Whole or torn, told without loading."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from lorakit.archive.tensors import safetensors_fault, weights_fault
from tests.archive.made import safetensors


def test_what_the_library_writes_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": np.ones((3, 4), np.float16), "y": np.zeros(0, np.float32)}, path, metadata={"k": "v"})
    assert safetensors_fault(path) is None


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    whole = safetensors(tmp_path / "whole.safetensors").stat().st_size
    for cut in range(1, whole + 1):
        assert safetensors_fault(safetensors(tmp_path / "cut.safetensors", cut=cut)) is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"1234", "length of its header"),
        (struct.pack("<Q", 1 << 60), "no safetensors"),
        (b"<!DOCTYPE html><html>login first</html>", "no safetensors"),
        (struct.pack("<Q", 4) + b"{]{]", "cannot be read"),
        (struct.pack("<Q", 2) + b"[]", "cannot be read"),
        (struct.pack("<Q", 14) + b'{"a": {"b": 1}', "cannot be read"),
        (struct.pack("<Q", 2) + b"{}xx", "2 bytes too many"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert said in str(safetensors_fault(path))


@given(st.binary(max_size=200))
def test_no_content_makes_it_raise(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(content)
    safetensors_fault(path)


def test_torchs_zip_is_told_by_its_end(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x" * 1000)
    path = tmp_path / "a.ckpt"
    path.write_bytes(buffer.getvalue())
    assert weights_fault(path) is None
    path.write_bytes(buffer.getvalue()[:500])
    assert "cut off" in str(weights_fault(path))
    path.write_bytes(b"")
    assert weights_fault(path) == "it is empty"
