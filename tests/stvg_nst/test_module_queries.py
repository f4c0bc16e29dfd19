"""Sentences are checked against the grounder when a stage is set up: all of them, by item."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datamodules import HCSTVG, MiniSTVG
from stvg_nst.losses import GroundingLoss
from stvg_nst.models.cgstvg import TextEncoder
from stvg_nst.module import GroundingModule
from stvg_nst.tuning import ZeroShot
from tests.datamodules.published import hcstvg_item, write_json

LONG = "the man in brown walks away and " * 10


class Reader(torch.nn.Module):
    """Stands for a grounder of which only the text encoder is asked for."""

    encodings = None

    def __init__(self) -> None:
        super().__init__()
        self.text = TextEncoder("stvg_nst/models/mini", 8)

    def backbones(self) -> tuple[torch.nn.Module, ...]:
        return ()

    def objective(self) -> GroundingLoss:
        return GroundingLoss()

    def require_inference(self, protocol: str) -> None: ...

    def query_faults(self, queries: Any) -> dict[int, str]:
        return self.text.query_faults(queries)


@pytest.fixture(scope="module")
def grounder() -> Any:
    return Reader()


def set_up(grounder: Any, data: Any, stage: str) -> None:
    made = GroundingModule(grounder, ZeroShot(), weights="random")
    made._trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=1)  # type: ignore[assignment]
    data.setup(stage)
    made.setup(stage)


def hcstvg(root: Path, **captions: str) -> HCSTVG:
    items = {f"{name}.mp4": hcstvg_item(caption=caption) for name, caption in captions.items()}
    write_json(root / "annos/hcstvg_v1/test.json", items)
    return HCSTVG(root, expect_official_counts=False)


def test_sentences_that_are_too_long_are_named_by_item(grounder: Any, tmp_path: Path) -> None:
    data = hcstvg(tmp_path, a="a man waves", **dict.fromkeys("bcdef", LONG))
    with pytest.raises(ValueError, match=r"cannot read 5 of the 6 sentences of the test split: ") as refusal:
        set_up(grounder, data, "test")
    first = "'b.mp4' is too long: at most 48 tokens, got "
    assert first in str(refusal.value) and "'d.mp4'" in str(refusal.value) and "'e.mp4'" not in str(refusal.value)
    assert "..." in str(refusal.value) and "shorten them in the annotation file" in str(refusal.value)


def test_the_longest_sentence_that_fits_is_taken(grounder: Any, tmp_path: Path) -> None:
    words, text = "star", grounder.text
    while len(text.token_ids(f"{words} star")) <= text.max_tokens:
        words += " star"
    assert len(words.encode()) > text.max_tokens, "more bytes than tokens"
    set_up(grounder, hcstvg(tmp_path, a=words), "test")
    with pytest.raises(ValueError, match=f"at most 48 tokens, got {len(text.token_ids(words)) + 1}; "):
        set_up(grounder, hcstvg(tmp_path, a=f"{words} star"), "test")


def test_every_split_of_a_stage_is_checked(grounder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "mini"
    options = {"training_clips": 2, "val_clips": 2, "test_clips": 2}
    data = MiniSTVG(root, **options)  # type: ignore[arg-type]
    set_up(grounder, data, "fit")
    whole = data.load_records
    for split in ("train", "val"):

        def spoilt(asked: Any, split: str = split) -> Any:
            records = whole(asked)
            return tuple(replace(r, query=LONG) for r in records) if asked == split else records

        monkeypatch.setattr(data, "load_records", spoilt)
        with pytest.raises(ValueError, match=rf"cannot read 4 of the 4 sentences of the {split} split: '.*' is"):
            set_up(grounder, data, "fit")


@pytest.mark.parametrize(
    ("query", "fault"), [("  ", "is a blank sentence"), ("a man\x07", r"control character '\\x07'")]
)
def test_a_data_set_of_ones_own_is_checked_too(grounder: Any, query: str, fault: str) -> None:
    record = SimpleNamespace(item_id="one", query=query)
    data = SimpleNamespace(records={"val": (record,)}, setup=lambda stage: None)
    with pytest.raises(ValueError, match=rf"the val split: 'one' .*{fault}"):
        set_up(grounder, data, "validate")
