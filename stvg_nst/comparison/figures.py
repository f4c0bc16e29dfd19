"""Fig. 2, the trade-off between restoration and forgetting, and the matrix of kinds and severities."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stvg_nst.comparison.replicates import REFERENCE, Comparison, Method
from stvg_nst.comparison.robustness import severity_changes, severity_levels
from stvg_nst.comparison.tables import BASELINE, MAIN, changes
from stvg_nst.study.figure import COLOURS, MARKERS, MUTED, STYLE, in_order_of_colours, save

PEER = "LoRA"
"""The method that is shown beside null-space tuning where there is room for one."""


def draw_figure2(comparison: Comparison, paths: Iterable[Path]) -> None:
    """Fig. 2: gain on LQ over drop on HQ, a panel for each scope; mean and sample standard deviation over the runs.

    The frozen grounder is the origin, and the thin diagonals join points of equal WAS, which is gain less drop.
    """
    names = list(dict.fromkeys(method.name for method in comparison.methods))
    looks = _looks(names)
    measured = [method for method in comparison.methods if method.replicates]
    scopes = list(dict.fromkeys(method.scope for method in measured)) or [""]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0 + 3.2 * len(scopes), 4.4), layout="constrained")
        panels = figure.subplots(1, len(scopes), squeeze=False, sharex=True, sharey=True)[0]
        for axes, scope in zip(panels, scopes, strict=True):
            _draw_plane(axes, [method for method in measured if method.scope == scope], looks)
            axes.set_title(f"scope: {scope}" if scope else MAIN)
        panels[0].set_ylabel(f"gain on LQ, {MAIN}, points")
        limits = (
            panels[0].get_xlim(),
            panels[0].get_ylim(),
        )  # of all panels, and before the lines, which would widen them
        panels[0].set(xlim=limits[0], ylim=limits[1])
        handles: dict[str, Any] = {}
        for axes in panels:
            _draw_equal_scores(axes, *limits)
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = [name for name in names if name in handles]
        figure.legend([handles[name] for name in shown], shown, loc="outside right center", frameon=False)
        _entitle(figure, comparison)
        save(figure, paths)


def draw_severities(comparison: Comparison, paths: Iterable[Path]) -> None:
    """m_vIoU by kind and severity: of the frozen grounder, and what LoRA and null-space tuning change, by scope."""
    before = severity_levels(comparison.baselines)
    changed = {
        f"{method.name}, {method.scope}": severity_changes(method.replicates)
        for method in comparison.methods
        if method.name in (PEER, REFERENCE) and method.replicates
    }
    with matplotlib.rc_context(STYLE):
        columns = min(3, 1 + len(changed))
        rows = -(-(1 + len(changed)) // columns)
        figure = Figure(figsize=(3.6 * columns, 0.9 + 2.5 * rows), layout="constrained")
        panels = [*figure.subplots(rows, columns, squeeze=False).flat]
        limit = max((abs(value) for cells in changed.values() for value in cells.values()), default=1.0)
        _draw_matrix(panels[0], before, {"cmap": "Greens", "vmin": 0, "vmax": max(before.values())}, "{:.1f}")
        panels[0].set_title(f"{BASELINE}: {MAIN}, %")
        for (name, cells), axes in zip(changed.items(), panels[1:], strict=False):
            _draw_matrix(axes, cells, {"cmap": "RdBu", "vmin": -limit, "vmax": limit}, "{:+.1f}")
            axes.set_title(f"{name}: change, points")
        for axes in panels[1 + len(changed) :]:
            axes.set_axis_off()
        _entitle(figure, comparison)
        save(figure, paths)


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    ordered = in_order_of_colours(names)
    rounds = ((index % len(COLOURS), index // len(COLOURS)) for index in range(len(ordered)))
    return {
        name: {"color": COLOURS[place], "marker": MARKERS[(place + turn) % len(MARKERS)]}
        for name, (place, turn) in zip(ordered, rounds, strict=True)
    }


def _draw_plane(axes: Axes, methods: Sequence[Method], looks: Mapping[str, Mapping[str, Any]]) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.annotate("zero-shot", (0, 0), (4, 4), textcoords="offset points", color=MUTED, fontsize=7)
    for method in methods:
        gain, drop = changes(method, "LQ"), changes(method, "HQ", -1)
        assert gain is not None and drop is not None, "only methods with runs are drawn"
        axes.errorbar(
            drop.mean,
            gain.mean,
            xerr=drop.deviation,
            yerr=gain.deviation,
            label=method.name,
            markersize=9 if method.name == REFERENCE else 6,
            linewidth=1.0,
            linestyle="none",
            elinewidth=1.0,
            **looks[method.name],
        )
    axes.set_xlabel(f"drop on HQ, {MAIN}, points")
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(0.12)


def _draw_equal_scores(axes: Axes, drops: tuple[float, float], gains: tuple[float, float]) -> None:
    """Thin lines of equal WAS, gain less drop, as many as keep the plane legible."""
    (left, right), (low, high) = drops, gains
    for score in MaxNLocator(6).tick_values(low - right, high - left):
        axes.axline((0, score), slope=1, color="#d9d9d9", linewidth=0.7, zorder=0)
        # Named where the line leaves the plane: on the right, or at the top.
        place = (right, right + score) if low < right + score < high else (high - score, high)
        if left + 0.15 * (right - left) < place[0]:  # else there is no room for its name
            axes.annotate(f"WAS {score:+g}", place, color=MUTED, fontsize=6, va="top", ha="right")


def _draw_matrix(axes: Axes, cells: Mapping[tuple[str, str], float], look: Mapping[str, Any], number: str) -> None:
    kinds = sorted({kind for kind, _ in cells})
    severities = sorted({severity for _, severity in cells})
    grid = [[cells.get((kind, severity), float("nan")) for severity in severities] for kind in kinds]
    axes.imshow(grid, aspect="auto", **look)
    for row, kind in enumerate(kinds):
        for column, severity in enumerate(severities):
            if (kind, severity) in cells:
                value = cells[kind, severity]
                colour = "white" if abs(value) > 0.6 * look["vmax"] else "black"
                axes.text(column, row, number.format(value), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(severities)), severities)
    axes.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
    axes.set_xlabel("severity")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _entitle(figure: Figure, comparison: Comparison) -> None:
    width = int(11 * figure.get_figwidth())  # letters of the title's size
    missing = "" if comparison.complete else ", INCOMPLETE"
    lines = [*textwrap.wrap(comparison.title, width), *textwrap.wrap(comparison.conditions + missing, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=11)
