"""The split ``confirm`` is new clips, behind a lock."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import HCSTVG, MiniSTVG
from datamodules.ministvg import clip_seed, data_module
from datamodules.ministvg.confirmation import UnconfirmedError
from stvg_nst.types import Quality


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list that a commit holds."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "confirm.yaml"
    file.write_text("title: What is confirmed\n")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for words in (["init"], ["add", "."], [*identity, "commit", "--message", "the list"]):
        subprocess.run(["git", *words], cwd=file.parent, check=True, capture_output=True)
    return file


def confirming(root: Path, confirmation: Path | None) -> MiniSTVG:
    options: dict[str, Any] = {"training_clips": 1, "val_clips": 1, "test_clips": 1, "num_workers": 0}
    return MiniSTVG(root, evaluation_split="confirm", confirmation=confirmation, variants=1, features=root, **options)


READERS: dict[str, Callable[[MiniSTVG], object]] = {
    "test": lambda data: data.setup("test"),
    "prepare": lambda data: data.prepare_data(),
    "cache features": lambda data: data.build_cache("confirm", lambda batch: batch, "backbones"),  # type: ignore[arg-type, return-value]
    "fig3": lambda data: data.sample("confirm-00000/declarative", Quality.HQ),
    "loader": lambda data: data.evaluation_loader("confirm"),
}


@pytest.mark.parametrize("reader", READERS)
def test_without_a_committed_list_nothing_is_read_nor_rendered(tmp_path: Path, committed: Path, reader: str) -> None:
    with pytest.raises(
        UnconfirmedError, match=r"'confirm' is read once, .* --data\.init_args\.confirmation, or measure"
    ):
        READERS[reader](confirming(tmp_path, None))
    committed.write_text("title: Another list\n")
    with pytest.raises(
        UnconfirmedError, match=r"confirm\.yaml' is not in the last commit as it is; commit it, or take"
    ):
        READERS[reader](confirming(tmp_path, committed))
    assert not (tmp_path / "ministvg-1" / "confirm").exists()


def test_with_one_it_is_400_clips_of_their_own_seeds(
    tmp_path: Path, committed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data_module.CONFIRMATION_CLIPS == 400
    monkeypatch.setattr(data_module, "CONFIRMATION_CLIPS", 2)
    data = MiniSTVG(tmp_path, evaluation_split="confirm", confirmation=committed, num_workers=0)
    data.setup("test")
    assert [record.clip_id for record in data.records["confirm"]] == ["confirm-00000"] * 2 + ["confirm-00001"] * 2
    assert data.conditions("test") == ("MiniSTVG", "confirm", 0, "mixed")
    (batch,) = data.test_dataloader()
    assert batch.qualities.tolist() == [0, 1] * 4
    others = {clip_seed(split, index) for split in ("pretrain", "tune", "val", "test") for index in range(3000)}
    assert others.isdisjoint(clip_seed("confirm", index) for index in range(400))


def test_other_data_sets_have_no_such_split(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"HCSTVG has the splits train, val, test, got 'confirm'; choose on 'val'"):
        HCSTVG(tmp_path, evaluation_split="confirm")
    with pytest.raises(ValueError, match="got 'confirm'"):
        HCSTVG(tmp_path).setup_split("confirm")
