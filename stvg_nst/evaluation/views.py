"""The views of a mixed-quality benchmark: which samples a number is the mean of, and what follows from such means.

Every number is an array of R values: the one that is measured, or one for each replicate of a bootstrap. So the same
lines compute a score and its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from stvg_nst.evaluation.tubes import CLEAN, SENTENCE_TYPES, GroundTruth
from stvg_nst.results.metric_names import (
    MEAN_KIND,
    METRICS,
    RELATIVE,
    SEVERITY,
    THRESHOLDS,
    WORST_KIND,
    MetricName,
    views_of,
)


@dataclass(frozen=True, slots=True)
class Samples:
    """What is to be predicted: S pairs of an item and a condition, item after item.

    Args:
        row: (S,) int64, the item's place in the ground truth.
        conditions: S.
        sentence_types: S.
        num_items: I.
    """

    row: np.ndarray
    conditions: tuple[str, ...]
    sentence_types: tuple[str | None, ...]
    num_items: int

    @classmethod
    def of(cls, ground_truth: GroundTruth) -> Samples:
        counts = [len(conditions) for conditions in ground_truth.conditions]
        row = np.repeat(np.arange(len(counts)), counts)
        return cls(
            row=row,
            conditions=tuple(name for conditions in ground_truth.conditions for name in conditions),
            sentence_types=tuple(ground_truth.sentence_types[index] for index in row),
            num_items=len(counts),
        )


class ViewSums:
    """Sums of the four metrics over the samples of every view, item by item: what means of drawn items are made of.

    Args:
        samples: S of them.
        t_iou, v_iou: (S,) in [0, 1].
    """

    def __init__(self, samples: Samples, t_iou: np.ndarray, v_iou: np.ndarray) -> None:
        points = [100 * t_iou, 100 * v_iou, *(100.0 * (v_iou > threshold) for threshold in THRESHOLDS)]
        masks = list(_view_masks(samples))
        self.num_items = samples.num_items
        self._keys = tuple(str(MetricName(view, metric, kind)) for view, kind, _ in masks for metric in METRICS)
        columns, counts = [], []
        for _, _, mask in masks:
            row = samples.row[mask]
            columns += [np.bincount(row, column[mask], minlength=samples.num_items) for column in points]
            counts += [np.bincount(row, minlength=samples.num_items)] * len(METRICS)
        self._sums = np.stack(columns, axis=1)  # (I, views x metrics)
        self._counts = np.stack(counts, axis=1).astype(float)

    def column(self, key: str) -> np.ndarray:
        """(2, I): of one number, each item's sum in percent points, and how many samples it is of; 0 without any."""
        if key not in self._keys:
            return np.zeros((2, self.num_items))
        index = self._keys.index(key)
        return np.stack([self._sums[:, index], self._counts[:, index]])

    def means(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every view's metrics, with items counted ``weights`` times, and what ``_summaries`` makes of them.

        Args:
            weights: (R, I).

        Returns:
            (R,) percent points by ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``; NaN where a replicate
            has drawn no sample of a view.
        """
        with np.errstate(invalid="ignore"):
            means = (weights @ self._sums) / (weights @ self._counts)
        values = dict(zip(self._keys, means.T, strict=True))
        return {**values, **_summaries(values)}


def kinds_of(views: Iterable[str]) -> tuple[str, ...]:
    """The kinds of degradation that have a view among these, in their order."""
    return tuple(view for view in views if view.islower() and ":" not in view and not view.startswith(SEVERITY))


def _view_masks(samples: Samples) -> Iterator[tuple[str, str | None, np.ndarray]]:
    """View, sentence type and (S,) bool of every view that has a sample: of all sentences, then of each type."""
    kinds = np.array(samples.sentence_types, dtype=object)
    for view, mask in quality_masks(np.array(samples.conditions)):
        yield view, None, mask
        for sentence_type in SENTENCE_TYPES:
            members = mask & (kinds == sentence_type)
            if members.any():
                yield view, sentence_type, members


def quality_masks(conditions: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """View and (S,) bool of both qualities, and of every kind, severity and both of the degraded samples."""
    clean = conditions == CLEAN
    if clean.any():
        yield CLEAN, clean
    if not clean.all():
        yield "LQ", ~clean
    found = sorted({condition for condition in conditions.tolist() if ":" in condition})
    parts = [condition.split(":") for condition in found]
    for kind in sorted({kind for kind, _ in parts}):
        yield kind, np.isin(conditions, [condition for condition in found if condition.startswith(f"{kind}:")])
    for severity in sorted({int(severity) for _, severity in parts}):
        yield f"{SEVERITY}{severity}", np.isin(conditions, [c for c in found if c.endswith(f":{severity}")])
    for condition in found:
        yield condition, conditions == condition


def _summaries(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """MQ, mean and worst over the kinds of degradation, and LQ relative to HQ, each where its views are there."""
    summaries = {}
    kinds = kinds_of(views_of(values))
    for name in (name for name in map(MetricName.parse, values) if name.view == "LQ"):
        low, clean = values[name.on("LQ")], values.get(name.on(CLEAN))
        if clean is not None:
            summaries[name.on("MQ")] = (clean + low) / 2  # 1 : 1, however many degradations a clip is shown in
            undefined = np.full_like(low, np.nan)
            summaries[name.on(RELATIVE)] = 100 * np.divide(low, clean, where=clean > 0, out=undefined)
        by_kind = [values[name.on(kind)] for kind in kinds if name.on(kind) in values]
        if by_kind:
            summaries[name.on(MEAN_KIND)] = np.mean(by_kind, axis=0)
            summaries[name.on(WORST_KIND)] = np.min(by_kind, axis=0)
    return summaries
