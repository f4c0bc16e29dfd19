"""The data set that docs/data.md adds works as it stands on the page."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.datamodules.published import write_clip

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
SECTION = PAGE[PAGE.index("## Add a data set") :]


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return str(found)


def test_the_data_set_of_the_page_shows_its_clips_in_both_qualities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "streets_of_the_page.py").write_text(block("python"))
    (tmp_path / "test.json").write_text(block("json"))
    write_clip(tmp_path / "videos" / "crossing.mp4")
    monkeypatch.syspath_prepend(tmp_path)
    streets = importlib.import_module("streets_of_the_page").Streets
    data = streets(tmp_path, num_workers=0, num_frames=5)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert data.batch_size == 4
    assert batch.frames.shape[:3] == (2, 5, 3) and batch.frames.shape[3] == 32
    assert [info.degradation is None for info in batch.clips] == [True, False]
    assert data.conditions("test").dataset == "streets"


def test_the_worked_example_is_short() -> None:
    assert len(SECTION.splitlines()) < 100
