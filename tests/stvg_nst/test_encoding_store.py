from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stvg_nst.encoding_store import EncodingStore, EncodingStoreError

TOKENS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


def refuse() -> Tensor:
    raise AssertionError("computed again")


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.*")
    return path


def test_the_second_call_reads_the_same_bits(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path / "new" / "folder", "encoder")
    assert store.get("content", lambda: TOKENS) is TOKENS
    again = EncodingStore(tmp_path / "new" / "folder", "encoder").get("content", refuse)
    assert torch.equal(again, TOKENS)
    assert only_file(tmp_path) == tmp_path / "new" / "folder" / "encoder" / "content.safetensors"


def test_contents_and_encoders_have_files_of_their_own(tmp_path: Path) -> None:
    asked = [("encoder", "a"), ("encoder", "b"), ("another", "a")]
    for number, (encoder, content) in enumerate(asked):
        EncodingStore(tmp_path, encoder).get(content, lambda number=number: TOKENS + number)
    for number, (encoder, content) in enumerate(asked):
        assert torch.equal(EncodingStore(tmp_path, encoder).get(content, refuse), TOKENS + number)


def test_what_fails_to_be_computed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        EncodingStore(tmp_path, "encoder").get("content", refuse)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flipped", "foreign"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    store = EncodingStore(tmp_path, "encoder")
    store.get("content", lambda: TOKENS)
    path = only_file(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes({"cut": content[:-8], "flipped": content, "foreign": b"something else"}[damage])
    with pytest.raises(EncodingStoreError, match=r"content\.safetensors .*; delete it, and it is computed again"):
        store.get("content", refuse)
