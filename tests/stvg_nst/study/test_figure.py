from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from PIL import Image

from stvg_nst.study import StudySummary
from stvg_nst.study.figure import COLOURS, draw_study, row_looks


def test_a_figure_shows_every_point_and_what_is_missing(summary: StudySummary, tmp_path: Path) -> None:
    png, svg, again = tmp_path / "a.png", tmp_path / "a.svg", tmp_path / "b.svg"
    draw_study(summary, png, svg)
    with Image.open(png) as image:
        assert image.width > 1000 and len(image.convert("RGB").getcolors(1 << 24) or ()) > 10
    text = svg.read_text()
    for label in ("A study", "MiniSTVG val, benchmark seed 3, INCOMPLETE", "full", "a|b (1 of 2)", "broken (0 of 2)"):
        assert f">{label}<" in text, label
    draw_study(summary, png, again)
    assert again.read_text() == text, "the same numbers give the same file"


def test_a_finished_study_is_not_called_incomplete(summary: StudySummary, tmp_path: Path) -> None:
    draw_study(replace(summary, points=summary.points[:1]), tmp_path / "a.svg")
    assert "INCOMPLETE" not in (tmp_path / "a.svg").read_text()


def test_a_method_has_one_colour_in_all_scopes_and_a_scope_one_marker() -> None:
    looks = row_looks(("decoder / Full FT", "decoder / LoRA", "encoder / LoRA", "decoder / NST", "whole / Full FT"))
    colours, markers = ({row: look[part] for row, look in looks.items()} for part in ("color", "marker"))
    assert colours["decoder / NST"] == COLOURS[0]
    assert colours["decoder / LoRA"] == colours["encoder / LoRA"] == COLOURS[1]
    assert colours["decoder / Full FT"] == colours["whole / Full FT"] == COLOURS[2]
    assert markers["decoder / Full FT"] == markers["decoder / NST"] != markers["whole / Full FT"]
    assert len({tuple(look.values()) for look in looks.values()}) == len(looks)


def test_more_methods_than_colours_are_told_apart_by_markers() -> None:
    rows = [f"{scope} / rank {rank}" for scope in "ab" for rank in range(2 * len(COLOURS))]
    assert len({tuple(look.values()) for look in row_looks(rows).values()}) == len(rows)
