from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from stvg_nst.models.encoding_store import EncodingMemory, EncodingStore, EncodingStoreError

TOKENS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))


def refuse() -> Tensor:
    raise AssertionError("computed again")


def only_file(folder: Path) -> Path:
    (path,) = folder.rglob("*.*")
    return path


def test_memory_keeps_the_first_that_fit_and_computes_the_others_every_time() -> None:
    memory = EncodingMemory(2 * TOKENS.nbytes)
    for number, content in enumerate("abc"):
        assert torch.equal(memory.get(content, lambda number=number: TOKENS + number), TOKENS + number)
    assert torch.equal(memory.get("a", refuse), TOKENS)
    assert torch.equal(memory.get("b", refuse), TOKENS + 1)
    assert torch.equal(memory.get("c", lambda: TOKENS + 3), TOKENS + 3)


def test_the_second_call_reads_the_same_bits(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path / "new" / "folder", "encoder")
    assert store.get("content", lambda: TOKENS) is TOKENS
    again = EncodingStore(tmp_path / "new" / "folder", "encoder")
    assert torch.equal(again.get("content", lambda: TOKENS + 1e-4), TOKENS)
    assert torch.equal(again.get("content", refuse), TOKENS), "one confirmation is enough"
    assert only_file(tmp_path) == tmp_path / "new" / "folder" / "v2" / "encoder" / "content.safetensors"


@pytest.mark.parametrize("answer", [TOKENS.flip(-1), TOKENS[:2]], ids=["other numbers", "another shape"])
def test_what_the_encoder_would_not_answer_is_refused(tmp_path: Path, answer: Tensor) -> None:
    """The same weights under another number of heads have the same name."""
    EncodingStore(tmp_path, "encoder").get("content", lambda: TOKENS)
    with pytest.raises(EncodingStoreError, match=r"does not hold what this encoder answers .* delete '.*encoder'"):
        EncodingStore(tmp_path, "encoder").get("content", lambda: answer)


def test_contents_and_encoders_have_files_of_their_own(tmp_path: Path) -> None:
    asked = [("encoder", "a"), ("encoder", "b"), ("another", "a")]
    for number, (encoder, content) in enumerate(asked):
        EncodingStore(tmp_path, encoder).get(content, lambda number=number: TOKENS + number)
    for number, (encoder, content) in enumerate(asked):
        stored = EncodingStore(tmp_path, encoder).get(content, lambda number=number: TOKENS + number)
        assert torch.equal(stored, TOKENS + number)


def test_what_fails_to_be_computed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        EncodingStore(tmp_path, "encoder").get("content", refuse)
    assert not list(tmp_path.iterdir())


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    EncodingStore(tmp_path, "encoder").get("content", lambda: TOKENS)
    path = only_file(tmp_path)
    path.rename(path.with_name("other.safetensors"))
    with pytest.raises(EncodingStoreError, match=r"other\.safetensors is damaged or misnamed: expected .*'other'"):
        EncodingStore(tmp_path, "encoder").get("other", refuse)


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
