from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import long_films
from stvg_nst.prediction import load
from tests.datamodules.films import encode


@pytest.mark.slow
def test_rules_are_compared_and_films_profiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grounder = load("mini", device="cpu")
    long_films.compare_rules(grounder, tmp_path, films=1)
    shown = capsys.readouterr().out
    found = re.findall(r"^  (.+?) +m_tIoU 0\.\d{3}  m_vIoU 0\.\d{3}  tIoU > 0\.3 [01]\.\d{3}$", shown, re.MULTILINE)
    assert found == [*long_films.RULES]
    long_films.profile(grounder, encode(tmp_path / "film.mp4"))
    assert re.search(r"72 frames of \(48, 128\), 1 windows\n  survey \d+ s, reading", capsys.readouterr().out)
