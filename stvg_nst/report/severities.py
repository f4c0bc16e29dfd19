"""Methods and runs by kind and severity of degradation: `report --by-degradation`, and the table of robustness."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from stvg_nst.evaluation.separation import separation
from stvg_nst.evaluation.tubes import CLEAN
from stvg_nst.evaluation.views import Samples, ViewSums, kinds_of
from stvg_nst.report.numbers import level
from stvg_nst.report.runs import run_labels
from stvg_nst.report.sheet import Cell, Section
from stvg_nst.results.metric_names import METRICS, SEVERITY, SUMMARIES, MetricName, views_of
from stvg_nst.results.results_file import ResultsFileError, RunResults


def severity_section(runs: Sequence[RunResults], metric: str) -> tuple[Section, str]:
    """One metric of every run in every view by degradation, and how many samples are behind a number.

    Args:
        runs: evaluated under the same conditions.
        metric: one of ``METRICS``.

    Raises:
        ValueError: there is no such metric.
        ResultsFileError: the samples of a run do not say how well and in which condition they were grounded.
    """
    if metric not in METRICS:
        raise ValueError(f"the metric must be one of {', '.join(METRICS)}, got '{metric}'")
    points = [view_points(run) for run in runs]
    views = views_of(name for own in points for name in own)
    severities = sorted(int(view.removeprefix(SEVERITY)) for view in views if view.startswith(SEVERITY))
    columns = [f":{severity}" for severity in severities] + [""]
    kinds = {kind: kind for kind in kinds_of(views)}
    rows = []
    for view, label in (kinds | {CLEAN: CLEAN, "LQ": "LQ, all samples"} | SUMMARIES).items():
        for run, own in zip(run_labels(runs), points, strict=True):
            # Of a summary there is one number, not one for each severity.
            keys = [
                str(MetricName(f"{view}{column}", metric)) if view in kinds or not column else "" for column in columns
            ]
            rows.append((Cell(label), Cell(run), *(_cell(own, key) for key in keys)))
    title = f"{runs[0].conditions}, {metric} by degradation"
    return Section(title, ("severity", "Method", *map(str, severities), "all"), tuple(rows)), _note(runs)


def separation_section(runs: Sequence[RunResults]) -> Section | None:
    """How well each run's router tells degraded samples from clean ones; ``None`` where no run has a router.

    Args:
        runs: evaluated under the same conditions.
    """
    found = [_separation(run) for run in runs]
    views = dict.fromkeys(view for own in found for view in own)
    if not views:
        return None
    severities = sorted(int(view.removeprefix(SEVERITY)) for view in views if view.startswith(SEVERITY))
    rows = []
    for kind, label in ({kind: kind for kind in kinds_of(views)} | {"LQ": "LQ, all samples"}).items():
        prefix = SEVERITY if kind == "LQ" else f"{kind}:"
        for run, own in zip(run_labels(runs), found, strict=True):
            cells = [own.get(view) for view in (*(f"{prefix}{severity}" for severity in severities), kind)]
            if own:
                rows.append((Cell(label), Cell(run), *(Cell("-" if v is None else f"{v:.3f}") for v in cells)))
    title = f"{runs[0].conditions}, AUROC of the router by degradation"
    return Section(title, ("severity", "Method", *map(str, severities), "all"), tuple(rows))


def _separation(run: RunResults) -> dict[str, float]:
    """AUROC by view of the low quality; of samples without a verdict there is none."""
    said = [sample for sample in run.samples if sample.get("verdict") is not None]
    conditions = [sample.get("degradation") or sample["quality"] for sample in said]
    return separation(conditions, np.array([sample["verdict"] for sample in said])) if said else {}


def view_points(run: RunResults) -> dict[str, float]:
    """Percent points of every view of the benchmark by ``<view>/<metric>``, counted from the run's samples.

    Raises:
        ResultsFileError: see :func:`view_sums`.
    """
    items = {item: row for row, item in enumerate(dict.fromkeys(sample["item_id"] for sample in run.samples))}
    sums = view_sums(run, np.array([items[sample["item_id"]] for sample in run.samples]), len(items))
    return {name: float(values[0]) for name, values in sums.means(np.ones((1, sums.num_items))).items()}


def view_sums(run: RunResults, rows: np.ndarray, num_rows: int) -> ViewSums:
    """The run's metrics on every view, item by item or clip by clip.

    Args:
        rows: (S,) int64, the number of each sample's item or clip.
        num_rows: how many of them there are.

    Raises:
        ResultsFileError: the samples do not say how well and in which condition they were grounded.
    """
    for index, sample in enumerate(run.samples):
        for name in ("sentence_type", "degradation", "tIoU", "vIoU"):
            if name not in sample:
                raise ResultsFileError(
                    f"{run.path}: field 'samples[{index}].{name}' is missing; evaluate the run again"
                )
    samples = Samples(
        row=rows,
        conditions=tuple(sample["degradation"] or sample["quality"] for sample in run.samples),
        sentence_types=tuple(sample["sentence_type"] for sample in run.samples),
        num_items=num_rows,
    )
    return ViewSums(samples, *(np.array([sample[name] for sample in run.samples]) for name in ("tIoU", "vIoU")))


def _cell(points: Mapping[str, float], key: str) -> Cell:
    value = points.get(key, math.nan)
    return Cell("" if not key else level(None if math.isnan(value) else value))


def _note(runs: Sequence[RunResults]) -> str:
    counts = Counter(sample["degradation"] for sample in runs[0].samples if sample["degradation"])
    if not counts:
        return "no sample was degraded"
    few, many = min(counts.values()), max(counts.values())
    size = f"{few}" if few == many else f"{few} to {many}"
    return f"a kind at one severity is {size} samples of {runs[0].path}"
