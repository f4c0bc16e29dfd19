"""How figures look: colours and markers that mean the same in each, and what several of them draw."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stvg_nst.best_effort import BestEffort
from stvg_nst.machine.whole_files import whole_file
from stvg_nst.report.findings import PEER, REFERENCE, Findings
from stvg_nst.study.definition import scope_and_name

# Okabe and Ito's colours, which the colour-blind tell apart; markers go on where the colours begin again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LEADERS = (REFERENCE, "NullSpaceTuning", PEER)
"""Methods that have the same colours in every figure, whatever else is compared: in studies, and by their classes."""
Looks = Mapping[str, Mapping[str, Any]]
MUTED, FAINT = "#6b6b6b", "#d9d9d9"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "svg.hashsalt": "study",  # the same numbers give the same file
    "text.parse_math": False,  # a name with two dollars is no formula
}


def row_looks(rows: Sequence[str]) -> Looks:
    """Colour and marker of each row: of ``scope / method`` the method has the colour, and the scope the marker."""
    methods = _in_order_of_colours(scope_and_name(row)[1] for row in rows)
    scopes = list(dict.fromkeys(scope_and_name(row)[0] for row in rows))
    rounds = -(-len(methods) // len(COLOURS))  # the colours begin again, with another marker
    looks = {}
    for row in rows:
        scope, method = scope_and_name(row)
        turn, colour = divmod(methods.index(method), len(COLOURS))
        marker = MARKERS[(rounds * scopes.index(scope) + turn) % len(MARKERS)]
        looks[row] = {"color": COLOURS[colour], "marker": marker}
    return looks


def method_looks(names: Iterable[str]) -> Looks:
    """Colour and marker of each method, where every scope has a panel of its own."""
    looks = {}
    for place, name in enumerate(_in_order_of_colours(names)):
        turn, colour = divmod(place, len(COLOURS))
        looks[name] = {"color": COLOURS[colour], "marker": MARKERS[(colour + turn) % len(MARKERS)]}
    return looks


def _in_order_of_colours(methods: Iterable[str]) -> list[str]:
    """Each once: those that have fixed colours, then the others as they come."""
    names = dict.fromkeys(methods)
    return [*(name for name in LEADERS if name in names), *(name for name in names if name not in LEADERS)]


def draw_origin(axes: Axes) -> None:
    """The frozen grounder, which neither gains nor loses."""
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.annotate("zero-shot", (0, 0), (4, 4), textcoords="offset points", color=MUTED, fontsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(6))


def draw_equal_scores(axes: Axes, across: tuple[float, float], up: tuple[float, float], slope: int) -> None:
    """Thin lines of equal WAS, as many as keep the plane legible.

    Args:
        across, up: what the axes show; ``up`` is the gain on LQ.
        slope: 1 where ``across`` is the drop on HQ, which the WAS subtracts, -1 where it is the change, which it adds.
    """
    (left, right), (low, high) = across, up
    first, last = (left, right) if slope < 0 else (right, left)
    for score in MaxNLocator(6).tick_values(low - slope * first, high - slope * last):
        axes.axline((0, score), slope=slope, color=FAINT, linewidth=0.7, zorder=0)
        # Named where the line leaves the plane, on the side of it that is free: on the right, or at the top or bottom.
        edge, room = high if slope > 0 else low, 0.15 * (right - left)
        place, sides = (right, score + slope * right), ("right", "bottom" if slope > 0 else "top")
        if not low < place[1] < high:
            place, sides = (slope * (edge - score), edge), ("left", "top" if slope > 0 else "bottom")
        if left < place[0] and (sides[0] == "right" or place[0] < right - room):  # else there is no room for its name
            axes.annotate(f"WAS {score:+g}", place, color=MUTED, fontsize=6, ha=sides[0], va=sides[1])


def entitle(figure: Figure, title: str, conditions: str, *, complete: bool) -> None:
    """What is shown and what it was measured on, on as many lines as it takes."""
    width = int(11 * figure.get_figwidth())  # letters of the title's size
    state = "" if complete else ", INCOMPLETE"
    lines = [*textwrap.wrap(title, width), *textwrap.wrap(conditions + state, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)


def save(figure: Figure, paths: Iterable[Path]) -> None:
    """Writes a figure into each of ``paths``; the same numbers give the same file."""
    for path in paths:
        # The date would make a new file of the same numbers.
        with whole_file(path) as partial:
            form = path.suffix.removeprefix(".")
            figure.savefig(partial, format=form, dpi=160, metadata={"Date": None} if form == "svg" else {})


def draw_if_possible(draw: Callable[..., None], findings: Findings, *paths: Path) -> tuple[Path, ...]:
    """Draws a study into ``paths`` and returns them; none, with a warning and no older picture left, if it cannot."""
    for path in paths:
        path.unlink(missing_ok=True)
    with BestEffort(" and ".join(map(str, paths))):
        draw(findings, *paths)
        return paths
    return ()
