"""Fig. 2, the trade-off between restoration and forgetting, and the matrix of kinds and severities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stvg_nst.report.findings import BASELINE, DROP, GAIN, PEER, REFERENCE, Findings, Method, over_runs
from stvg_nst.report.robustness import severity_changes, severity_levels
from stvg_nst.report.style import STYLE, Looks, draw_equal_scores, draw_origin, entitle, method_looks, save
from stvg_nst.results.metric_names import MAIN


def draw_figure2(findings: Findings, paths: Iterable[Path]) -> None:
    """Fig. 2: gain on LQ over drop on HQ, a panel for each scope; mean and sample standard deviation over the runs.

    The frozen grounder is the origin, and the thin diagonals join points of equal WAS, which is gain less drop.
    """
    names = list(dict.fromkeys(method.name for method in findings.methods))
    looks = method_looks(names)
    measured = [method for method in findings.methods if method.replicates]
    scopes = list(dict.fromkeys(method.scope for method in measured)) or [""]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.0 + 3.2 * len(scopes), 4.4), layout="constrained")
        panels = figure.subplots(1, len(scopes), squeeze=False, sharex=True, sharey=True)[0]
        for axes, scope in zip(panels, scopes, strict=True):
            _draw_plane(axes, [method for method in measured if method.scope == scope], looks)
            axes.set_title(f"scope: {scope}" if scope else MAIN)
        panels[0].set_ylabel(f"gain on LQ, {MAIN}, points")
        # Of all panels, and before the lines, which would widen them.
        across, up = panels[0].get_xlim(), panels[0].get_ylim()
        panels[0].set(xlim=across, ylim=up)
        handles: dict[str, Any] = {}
        for axes in panels:
            draw_equal_scores(axes, across, up, slope=1)
            handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = [name for name in names if name in handles]
        figure.legend([handles[name] for name in shown], shown, loc="outside right center", frameon=False)
        entitle(figure, findings.study.title, findings.conditions, complete=findings.complete)
        save(figure, paths)


def draw_severities(findings: Findings, paths: Iterable[Path]) -> None:
    """m_vIoU by kind and severity: of the frozen grounder, and what LoRA and null-space tuning change, by scope."""
    before = severity_levels(findings.baselines)
    changed = {
        f"{method.name}, {method.scope}": severity_changes(method.replicates)
        for method in findings.methods
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
        entitle(figure, findings.study.title, findings.conditions, complete=findings.complete)
        save(figure, paths)


def _draw_plane(axes: Axes, methods: Sequence[Method], looks: Looks) -> None:
    draw_origin(axes)
    for method in methods:
        gain, drop = (over_runs(method, quantity.view, quantity.number()) for quantity in (GAIN, DROP))
        assert gain is not None and drop is not None, "only methods with runs are drawn"
        axes.errorbar(
            drop.mean,
            gain.mean,
            xerr=drop.deviation,
            yerr=gain.deviation,
            label=method.name,
            # A rival at the same place stays visible on it.
            markersize=9 if method.name == REFERENCE else 6,
            zorder=2.0 if method.name == REFERENCE else 2.1,
            linewidth=1.0,
            linestyle="none",
            elinewidth=1.0,
            **looks[method.name],
        )
    axes.set_xlabel(f"drop on HQ, {MAIN}, points")
    axes.margins(0.12)


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
