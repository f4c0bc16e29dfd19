from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from stvg_nst.report.style import COLOURS, STYLE, entitle, row_looks, save


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


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure()
        entitle(figure, "between $5 and $6", "val", complete=True)
        save(figure, [tmp_path / "title.svg"])
    assert ">between $5 and $6<" in (tmp_path / "title.svg").read_text()
