"""A study's findings as a picture: the WAS of each point, and what it gains on LQ against what it loses on HQ."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stvg_nst.report.findings import CHANGE, GAIN, SCORE, Findings, Method, over_seeds
from stvg_nst.report.style import MUTED, STYLE, Looks, draw_equal_scores, draw_origin, entitle, row_looks, save

SHOWN = ("m_vIoU", "m_tIoU")
LABEL_WIDTH = 26
"""Letters of a line of a point's name."""
_BOUND = "\u00a0"  # a space at which textwrap breaks no line


def draw_study(findings: Findings, *paths: Path) -> None:
    """Draws the study into each of ``paths``, whose suffixes choose the format.

    Left, the WAS of each point: mean, sample standard deviation, and below them a dot for each seed. Right, its gain on
    LQ over its change on HQ: the frozen grounder is the origin, and the thin diagonals join points of equal WAS.
    """
    methods, measured = findings.methods, [method for method in findings.methods if method.finished_runs]
    looks = row_looks([method.point for method in methods])
    with matplotlib.rc_context(STYLE):
        height = 1.0 + len(SHOWN) * max(2.6, 0.8 + 0.36 * len(methods))
        figure = Figure(figsize=(9.5, height), layout="constrained")
        rows = figure.subplots(len(SHOWN), 2, squeeze=False)
        for metric, (scores, plane) in zip(SHOWN, rows, strict=True):
            _draw_scores(scores, methods, looks, metric)
            _draw_plane(plane, measured, looks, metric)
        entitle(figure, findings.study.heading, findings.draws, complete=findings.complete)
        save(figure, paths)


def _draw_scores(axes: Axes, methods: Sequence[Method], looks: Looks, metric: str) -> None:
    for row, method in enumerate(methods):
        spread, look = over_seeds(method, SCORE.number(metric)), looks[method.point]
        if spread is not None:
            axes.scatter(spread.values, [row + 0.24] * len(spread.values), s=9, alpha=0.5, linewidths=0, **look)
            axes.errorbar(spread.mean, row, xerr=spread.deviation, markersize=6, capsize=3, linewidth=1.4, **look)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(methods)), [_label(method) for method in methods])
    for label, method in zip(axes.get_yticklabels(), methods, strict=True):
        label.set_color(looks[method.point]["color"] if method.finished_runs else MUTED)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("points")
    axes.set_title(f"WAS, {metric}")


def _label(method: Method) -> str:
    """The point's name and, where seeds are missing, how many there are, which stay on one line."""
    if method.complete:
        return textwrap.fill(method.point, LABEL_WIDTH)
    bound = method.seeds.replace(" ", _BOUND)
    return textwrap.fill(f"{method.point} ({bound})", LABEL_WIDTH).replace(_BOUND, " ")


def _draw_plane(axes: Axes, methods: Sequence[Method], looks: Looks, metric: str) -> None:
    draw_origin(axes)
    for method in methods:
        gain, change = (over_seeds(method, quantity.number(metric)) for quantity in (GAIN, CHANGE))
        assert gain is not None and change is not None, "only methods with runs are drawn"
        look = looks[method.point]
        axes.errorbar(
            change.mean, gain.mean, xerr=change.deviation, yerr=gain.deviation, markersize=6, linewidth=1.0, **look
        )
    axes.set_xlabel("change on HQ, points")
    axes.set_ylabel("gain on LQ, points")
    axes.set_title(f"what is restored, and at what cost, {metric}")
    axes.margins(0.15)
    across, up = axes.get_xlim(), axes.get_ylim()
    axes.autoscale(False)
    draw_equal_scores(axes, across, up, slope=-1)
