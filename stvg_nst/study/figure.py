"""A study's findings as a picture: the WAS of each point, and what it gains on LQ against what it loses on HQ."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stvg_nst.best_effort import BestEffort
from stvg_nst.study.summary import PointSummary, StudySummary
from stvg_nst.study.tables import conditions_line
from stvg_nst.whole_files import whole_file

SHOWN = ("m_vIoU", "m_tIoU")
# Okabe and Ito's colours, which the colour-blind tell apart; markers go on where the colours begin again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
LEADERS = ("NST", "LoRA")
"""Methods that have the same colours in every figure, whatever else is compared."""
Looks = Mapping[str, Mapping[str, Any]]
MUTED = "#6b6b6b"
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "svg.hashsalt": "study",  # the same numbers give the same file
}


def draw_if_possible(draw: Callable[..., None], summary: StudySummary, *paths: Path) -> tuple[Path, ...]:
    """Draws a study into ``paths`` and returns them; none, with a warning and no older picture left, if it cannot."""
    for path in paths:
        path.unlink(missing_ok=True)
    with BestEffort(" and ".join(map(str, paths))):
        draw(summary, *paths)
        return paths
    return ()


def draw_study(summary: StudySummary, *paths: Path) -> None:
    """Draws the study into each of ``paths``, whose suffixes choose the format.

    Left, the WAS of each point: mean, sample standard deviation, and below them a dot for each seed. Right, its gain on
    LQ over its change on HQ: the frozen grounder is the origin, and the thin diagonals join points of equal WAS.
    """
    looks = row_looks([point.name for point in summary.points])
    with matplotlib.rc_context(STYLE):
        height = 1.0 + len(SHOWN) * max(2.6, 0.8 + 0.36 * len(summary.points))
        figure = Figure(figsize=(9.5, height), layout="constrained")
        rows = figure.subplots(len(SHOWN), 2, squeeze=False)
        for metric, (scores, plane) in zip(SHOWN, rows, strict=True):
            _draw_scores(scores, summary.points, looks, metric)
            _draw_plane(plane, [point for point in summary.points if point.spreads], looks, metric)
        missing = "" if summary.complete else ", INCOMPLETE"
        title = f"{textwrap.fill(summary.title, 100)}\n{conditions_line(summary)}{missing}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        save(figure, paths)


def row_looks(rows: Sequence[str]) -> Looks:
    """Colour and marker of each row: of ``scope / method`` the method has the colour, and the scope the marker."""
    methods = in_order_of_colours(row.rpartition(" / ")[2] for row in rows)
    scopes = list(dict.fromkeys(row.rpartition(" / ")[0] for row in rows))
    rounds = -(-len(methods) // len(COLOURS))  # the colours begin again, with another marker
    looks = {}
    for row in rows:
        scope, _, method = row.rpartition(" / ")
        turn, colour = divmod(methods.index(method), len(COLOURS))
        marker = MARKERS[(rounds * scopes.index(scope) + turn) % len(MARKERS)]
        looks[row] = {"color": COLOURS[colour], "marker": marker}
    return looks


def in_order_of_colours(methods: Iterable[str]) -> list[str]:
    """Each once: those that have fixed colours, then the others as they come."""
    names = dict.fromkeys(methods)
    return [*(name for name in LEADERS if name in names), *(name for name in names if name not in LEADERS)]


def save(figure: Figure, paths: Iterable[Path]) -> None:
    """Writes a figure into each of ``paths``; the same numbers give the same file."""
    for path in paths:
        # The date would make a new file of the same numbers.
        with whole_file(path) as partial:
            form = path.suffix.removeprefix(".")
            figure.savefig(partial, format=form, dpi=160, metadata={"Date": None} if form == "svg" else {})


def _draw_scores(axes: Axes, points: Sequence[PointSummary], looks: Looks, metric: str) -> None:
    for row, point in enumerate(points):
        if point.spreads:
            spread, look = point.spreads["WAS", metric], looks[point.name]
            axes.scatter(spread.values, [row + 0.24] * len(spread.values), s=9, alpha=0.5, linewidths=0, **look)
            axes.errorbar(spread.mean, row, xerr=spread.deviation, markersize=6, capsize=3, linewidth=1.4, **look)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    labels = [p.name if p.complete else f"{p.name} ({p.num_seeds} of {p.num_expected})" for p in points]
    axes.set_yticks(range(len(points)), [textwrap.fill(label, 26) for label in labels])
    for label, point in zip(axes.get_yticklabels(), points, strict=True):
        label.set_color(looks[point.name]["color"] if point.spreads else MUTED)
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("points")
    axes.set_title(f"WAS, {metric}")


def _draw_plane(axes: Axes, points: Sequence[PointSummary], looks: Looks, metric: str) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.annotate("zero-shot", (0, 0), (4, 4), textcoords="offset points", color=MUTED, fontsize=7)
    for point in points:
        gain, change = point.spreads["LQ gain", metric], point.spreads["HQ change", metric]
        look = looks[point.name]
        axes.errorbar(
            change.mean, gain.mean, xerr=change.deviation, yerr=gain.deviation, markersize=6, linewidth=1.0, **look
        )
    axes.set_xlabel("change on HQ, points")
    axes.set_ylabel("gain on LQ, points")
    axes.set_title(f"what is restored, and at what cost, {metric}")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(0.15)
    _draw_equal_scores(axes)


def _draw_equal_scores(axes: Axes) -> None:
    """Thin lines of equal WAS, which is the sum of the axes, as many as keep the plane legible."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    axes.autoscale(False)
    for score in MaxNLocator(5).tick_values(left + low, right + high):
        axes.axline((0, score), slope=-1, color="#d9d9d9", linewidth=0.7, zorder=0)
        if low < score - right < high:
            axes.annotate(f" WAS {score:+g}", (right, score - right), color=MUTED, fontsize=7, va="center")
