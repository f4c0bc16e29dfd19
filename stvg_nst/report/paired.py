"""The interval of a difference between two methods that saw the same clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stvg_nst.evaluation.bootstrap import clip_of, clip_rows, drawn_counts, interval, p_value
from stvg_nst.evaluation.views import ViewSums
from stvg_nst.report.findings import Method, Replicate
from stvg_nst.report.severities import view_sums
from stvg_nst.results.metric_names import MetricName
from stvg_nst.results.was import weighted_adaptation_score
from stvg_nst.seeding import derive_seed

QUALITIES = ("HQ", "LQ")


@dataclass(frozen=True, slots=True)
class Difference:
    """Method less reference in percent points, with a percentile interval.

    Args:
        pairs: of replicates, that it is of.
        seeds: of training, that these pairs are of.
        p: of the hypothesis that there is none, two-sided.
    """

    mean: float
    low: float
    high: float
    pairs: int
    seeds: int
    p: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0


class PairedBootstrap:
    """Draws clips, the same ones for both methods and under both qualities.

    A clip is drawn with all of its sentences, replicates and draws of the benchmark, for they are not independent.

    Args:
        replicates: of every method to compare; they fix which clips and seeds there are.
        draws: of the bootstrap.
        seed: of these draws.
        over_seeds: draw the seeds of training too, each with its runs on all grounders and draws of the benchmark, and
            the same ones for both methods. Without it an interval holds for these runs, and says nothing of others.
    """

    def __init__(self, replicates: Sequence[Replicate], *, draws: int, seed: int = 0, over_seeds: bool = False) -> None:
        clips = [_clip(sample) for own in replicates for sample in own.results.samples]
        rows, count = clip_rows(clips)
        self._rows = dict(zip(clips, rows.tolist(), strict=True))
        self._weights = np.concatenate([np.empty((0, count)), *drawn_counts(count, draws, seed)])
        self._seeds = sorted({str(own.run.seed) for own in replicates})
        self._seed_weights: np.ndarray | None = None
        if over_seeds:
            # Seeds are drawn apart from clips: the draws of a further seed do not change those of clips.
            drawn = drawn_counts(len(self._seeds), draws, derive_seed("seeds of the bootstrap", seed))
            self._seed_weights = np.concatenate([np.empty((0, len(self._seeds))), *drawn])
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

        def over(clips: np.ndarray, runs: np.ndarray | None) -> np.ndarray:
            (high, low), (high_other, low_other) = (
                [_mean(side[:, q], clips, runs) for q in range(len(QUALITIES))] for side in (own, other)
            )
            on_hq, on_lq = high - high_other, low - low_other
            score = weighted_adaptation_score(low, low_other, high, high_other)
            return {"HQ": on_hq, "LQ": on_lq, "MQ": (on_hq + on_lq) / 2, "WAS": score}[view]

        (mean,) = over(np.ones((1, self._weights.shape[1])), None)
        drawn = over(self._weights, self._run_weights([pair[0] for pair in pairs]))
        seeds = {replicate.run.seed for replicate, _ in pairs}
        return Difference(float(mean), *interval(drawn), len(pairs), len(seeds), p_value(drawn))

    def _run_weights(self, runs: Sequence[Replicate]) -> np.ndarray | None:
        """(B, R): how often each draw has drawn each replicate by its seed; ``None`` where seeds are not drawn."""
        if self._seed_weights is None:
            return None
        return self._seed_weights[:, [self._seeds.index(str(own.run.seed)) for own in runs]]

    def _of(self, replicate: Replicate) -> ViewSums:
        key = id(replicate.results)
        if key not in self._sums:
            rows = [self._rows[_clip(sample)] for sample in replicate.results.samples]
            self._sums[key] = view_sums(replicate.results, np.array(rows), self._weights.shape[1])
        return self._sums[key]


def _clip(sample: Mapping[str, Any]) -> str:
    name = sample.get("clip")
    return clip_of(sample["item_id"]) if name is None else str(name)


def _mean(sums: np.ndarray, clips: np.ndarray, runs: np.ndarray | None) -> np.ndarray:
    """(B,) over the clips and replicates of (R, 2, C), counted as the rows of (B, C) and (B, R) say; all runs once.

    NaN where a draw has none of the runs.
    """
    if runs is None:
        total, count = sums.sum(axis=0)
        return (clips @ total) / (clips @ count)
    by_clip = (runs @ sums.reshape(len(sums), -1)).reshape(len(runs), *sums.shape[1:])
    total, count = (by_clip * clips[:, None]).sum(axis=2).T
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
