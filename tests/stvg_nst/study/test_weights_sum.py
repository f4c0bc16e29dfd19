"""A run is still its study's where its weights have only learnt to say of which network they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stvg_nst.study.weights_sum import file_sum, is_same

TENSORS = {"b.weight": torch.arange(6.0).view(2, 3), "a": torch.ones(3, dtype=torch.int64), "ü": torch.zeros(2).half()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_metadata_do_not_make_other_weights(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "before")
    save_file(TENSORS, tmp_path / "now", metadata={"says": "mehr"})
    before = sha256(tmp_path / "before")
    assert file_sum(tmp_path / "now") == sha256(tmp_path / "now") != before
    assert is_same(tmp_path / "now", before) and is_same(tmp_path / "now", sha256(tmp_path / "now"))
    assert is_same(tmp_path / "before", before) and not is_same(tmp_path / "before", sha256(tmp_path / "now"))


def test_other_tensors_are_other_weights(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "before")
    save_file({**TENSORS, "a": torch.zeros(3, dtype=torch.int64)}, tmp_path / "now", metadata={"says": "more"})
    assert not is_same(tmp_path / "now", sha256(tmp_path / "before"))


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 8 + b"a" * 40, (2).to_bytes(8, "little") + b"[]", b"{}" * 9]
)
def test_any_other_file_has_its_own_sum_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert file_sum(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    assert is_same(tmp_path / "file", file_sum(tmp_path / "file")) and not is_same(tmp_path / "file", "0" * 64)
