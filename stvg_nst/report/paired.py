"""The interval of a difference between two methods that saw the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stvg_nst.metric_names import METRICS, THRESHOLDS
from stvg_nst.report.findings import Method, Replicate

LEVEL = 0.95
QUALITIES = ("HQ", "LQ")
VIEWS = ("HQ", "LQ", "MQ", "WAS")


@dataclass(frozen=True, slots=True)
class Difference:
    """Method less reference in percent points, with a percentile interval; ``pairs`` of replicates make it."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class PairedBootstrap:
    """Draws clips with replacement, the same ones for both methods and under both qualities.

    A clip stands with all of its sentences, replicates and draws of the benchmark, for they are not independent. What a
    clip is, the items say: all of ``clip/declarative`` and ``clip/interrogative`` before the last slash is one.

    Args:
        replicates: of every method to compare; they fix which clips there are.
        draws: of the bootstrap.
        seed: of these draws.
    """

    def __init__(self, replicates: Sequence[Replicate], *, draws: int, seed: int = 0) -> None:
        clips = sorted({clip_of(sample["item_id"]) for r in replicates for sample in r.results.samples})
        self._clips = {clip: index for index, clip in enumerate(clips)}
        generator = np.random.default_rng(seed)
        drawn = generator.integers(len(clips), size=(draws, len(clips)))
        self._weights = np.stack([np.bincount(row, minlength=len(clips)) for row in drawn]).astype(float)
        self._sums: dict[tuple[int, str | None], np.ndarray] = {}

    def difference(
        self, method: Method, reference: Method, view: str, metric: str, sentence_type: str | None = None
    ) -> Difference | None:
        """Over the replicates that both have; ``None`` where there are none.

        Args:
            view: one of ``VIEWS``; the baseline is the same for both, and drops out of the difference of their WAS.
        """
        theirs = {replicate.place: replicate for replicate, _ in reference.replicates}
        pairs = [(own, theirs[own.place]) for own, _ in method.replicates if own.place in theirs]
        if not pairs:
            return None
        column = METRICS.index(metric)
        # (R, C, qualities, 2), of the metric's sum and the number of samples of each clip
        own, other = (
            np.stack([self._of(pair[side], sentence_type)[..., [column, -1]] for pair in pairs]) for side in (0, 1)
        )
        whole = np.ones((1, len(self._clips)))
        (mean,) = _weighted(own, other, whole, view)
        low, high = np.quantile(_weighted(own, other, self._weights, view), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Difference(float(mean), float(low), float(high), len(pairs))

    def _of(self, replicate: Replicate, sentence_type: str | None) -> np.ndarray:
        """(C, qualities, metrics + 1): sums over the samples of each clip, the last being how many they are."""
        key = id(replicate.results), sentence_type
        if key not in self._sums:
            sums = np.zeros((len(self._clips), len(QUALITIES), len(METRICS) + 1))
            for sample in replicate.results.samples:
                if sentence_type is None or sample["sentence_type"] == sentence_type:
                    t_iou, v_iou = sample["tIoU"], sample["vIoU"]
                    points = [100 * t_iou, 100 * v_iou, *(100.0 * (v_iou > threshold) for threshold in THRESHOLDS), 1]
                    sums[self._clips[clip_of(sample["item_id"])], QUALITIES.index(sample["quality"])] += points
            self._sums[key] = sums
        return self._sums[key]


def clip_of(item_id: str) -> str:
    """
    >>> clip_of("test-00012/declarative"), clip_of("57_uvLbyKmQfXk")
    ('test-00012', '57_uvLbyKmQfXk')
    """
    return item_id.rpartition("/")[0] or item_id


def _weighted(own: np.ndarray, other: np.ndarray, weights: np.ndarray, view: str) -> np.ndarray:
    """(B,) the difference of the view, its clips counted as each row of ``weights`` (B, C) says."""
    high, low = (_mean(own, weights, q) - _mean(other, weights, q) for q in range(len(QUALITIES)))
    return {"HQ": high, "LQ": low, "MQ": (high + low) / 2, "WAS": high + low}[view]


def _mean(sums: np.ndarray, weights: np.ndarray, quality: int) -> np.ndarray:
    """(B,) over the clips, of the mean over the replicates."""
    totals = sums[:, :, quality].sum(axis=0)  # (C, 2)
    return (weights @ totals[:, 0]) / (weights @ totals[:, 1])
