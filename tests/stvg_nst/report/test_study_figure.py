from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from stvg_nst.report.findings import Findings
from stvg_nst.report.study_figure import draw_study


def test_a_figure_shows_every_point_and_what_is_missing(findings: Findings, tmp_path: Path) -> None:
    png, svg, again = tmp_path / "a.png", tmp_path / "a.svg", tmp_path / "b.svg"
    draw_study(findings, png, svg)
    with Image.open(png) as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24) or ()) > 10
    text = svg.read_text()
    for label in ("A study", "MiniSTVG val, benchmark seed 3, INCOMPLETE", "full", "a|b (1 of 2)", "broken (0 of 2)"):
        assert f">{label}<" in text, label
    draw_study(findings, png, again)
    assert again.read_text() == text, "the same numbers give the same file"


def test_a_finished_study_is_not_called_incomplete(findings: Findings, tmp_path: Path) -> None:
    draw_study(replace(findings, methods=findings.methods[:1]), tmp_path / "a.svg")
    assert "INCOMPLETE" not in (tmp_path / "a.svg").read_text()


def test_how_many_seeds_there_are_stays_on_one_line(findings: Findings, tmp_path: Path) -> None:
    long = replace(findings.methods[1], point="a" * 21)
    draw_study(replace(findings, methods=(long,)), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert f">{'a' * 21}<" in text and ">(1 of 2)<" in text
