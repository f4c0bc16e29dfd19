"""The interval of a difference between two methods that saw the same clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stvg_nst.evaluation.bootstrap import clip_of, clip_rows, drawn_clips, interval
from stvg_nst.evaluation.views import ViewSums
from stvg_nst.report.findings import Method, Replicate
from stvg_nst.report.severities import view_sums
from stvg_nst.results.metric_names import MetricName
from stvg_nst.results.was import weighted_adaptation_score

QUALITIES = ("HQ", "LQ")


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
    """Draws clips, the same ones for both methods and under both qualities.

    A clip is drawn with all of its sentences, replicates and draws of the benchmark, for they are not independent.

    Args:
        replicates: of every method to compare; they fix which clips there are.
        draws: of the bootstrap.
        seed: of these draws.
    """

    def __init__(self, replicates: Sequence[Replicate], *, draws: int, seed: int = 0) -> None:
        clips = [clip_of(sample["item_id"]) for own in replicates for sample in own.results.samples]
        rows, count = clip_rows(clips)
        self._rows = dict(zip(clips, rows.tolist(), strict=True))
        self._weights = np.concatenate([np.empty((0, count)), *drawn_clips(count, draws, seed)])
        self._sums: dict[int, ViewSums] = {}

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
        keys = [str(MetricName(quality, metric, sentence_type)) for quality in QUALITIES]
        # (R, qualities, 2, C) of each side: of every clip the metric's sum and the number of its samples.
        own, other = (
            np.stack([[self._of(pair[side]).column(key) for key in keys] for pair in pairs]) for side in (0, 1)
        )

        def over(weights: np.ndarray) -> np.ndarray:
            (high, low), (high_other, low_other) = (
                [_mean(side[:, q], weights) for q in range(len(QUALITIES))] for side in (own, other)
            )
            on_hq, on_lq = high - high_other, low - low_other
            score = weighted_adaptation_score(low, low_other, high, high_other)
            return {"HQ": on_hq, "LQ": on_lq, "MQ": (on_hq + on_lq) / 2, "WAS": score}[view]

        (mean,) = over(np.ones((1, self._weights.shape[1])))
        return Difference(float(mean), *interval(over(self._weights)), len(pairs))

    def _of(self, replicate: Replicate) -> ViewSums:
        key = id(replicate.results)
        if key not in self._sums:
            rows = [self._rows[clip_of(sample["item_id"])] for sample in replicate.results.samples]
            self._sums[key] = view_sums(replicate.results, np.array(rows), self._weights.shape[1])
        return self._sums[key]


def _mean(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) over the clips of (R, 2, C), counted as each row of ``weights`` (B, C) says."""
    total, count = sums.sum(axis=0)
    return (weights @ total) / (weights @ count)
