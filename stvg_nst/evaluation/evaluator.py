"""From predicted and true tubes to every number of the benchmark, by every protocol, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from stvg_nst.evaluation.bootstrap import LEVEL, Interval, clip_rows, drawn_counts, interval
from stvg_nst.evaluation.protocols import Protocol
from stvg_nst.evaluation.scoring import Coverage, Missing, Unknown, choose_protocols, score_samples
from stvg_nst.evaluation.separation import separation
from stvg_nst.evaluation.tubes import GroundTruth, Predictions
from stvg_nst.evaluation.views import Samples, ViewSums
from stvg_nst.results.was import LAMBDA_HQ, with_adaptation_scores

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """The numbers of one protocol, in percent points, by ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``.

    Args:
        metrics: of the method; with a baseline, the ``WAS/`` too. NaN where a number is undefined: LQ relative to an
            HQ of 0.
        intervals: of ``metrics``; empty without bootstrap.
        baseline: metrics of the baseline; empty without one, as are the next two.
        differences: method less baseline.
        difference_intervals: of ``differences``, paired over clips; empty without bootstrap.
    """

    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    baseline: Mapping[str, float]
    differences: Mapping[str, float]
    difference_intervals: Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All numbers of one method on one ground truth.

    Args:
        dataset, split: of the ground truth.
        method, baseline: names; the baseline's is ``None`` without one.
        lambda_hq: of the WAS.
        num_items, num_clips: of the ground truth; a bootstrap draws clips.
        coverage, baseline_coverage: what the predictions answered.
        bootstrap, seed: replicates, and the seed of their draws; 0 replicates are no bootstrap.
        protocols: the numbers by protocol.
        left_out: protocols that could not be computed, and why.
        frames_taken_out: of the true tubes, those that count nowhere.
        boxes_without_area: of the true tubes, which nothing can overlap.
        separation: AUROC of the method's verdicts on quality, by view of the low quality; empty where it gives none.
    """

    dataset: str
    split: str
    method: str
    baseline: str | None
    lambda_hq: float
    num_items: int
    num_clips: int
    coverage: Coverage
    baseline_coverage: Coverage | None
    bootstrap: int
    seed: int
    protocols: Mapping[Protocol, ProtocolResult]
    left_out: Mapping[Protocol, str]
    frames_taken_out: int = 0
    boxes_without_area: int = 0
    separation: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The content of the file of results; a number that is undefined is null."""
        return _without_nan({"schema": _SCHEMA, "level": LEVEL, **asdict(self)})


def evaluate(
    predictions: Predictions,
    ground_truth: GroundTruth,
    *,
    baseline: Predictions | None = None,
    protocols: Sequence[Protocol] | None = None,
    lambda_hq: float = LAMBDA_HQ,
    missing: Missing = "error",
    unknown: Unknown = "error",
    bootstrap: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Scores predicted tubes on every view of the benchmark.

    Args:
        predictions: of any method.
        ground_truth: what is true, and which samples count.
        baseline: predictions of the zero-shot method; adds differences and the WAS.
        protocols: which to compute, the first being the main one; ``None`` for all that the ground truth allows.
        lambda_hq: weight of the drop on HQ in the WAS, eq. (8).
        missing: a sample without a prediction is an error, or scores 0, as the HC-STVG organisers have it. It holds
            for the baseline too.
        unknown: a prediction that the ground truth does not ask for is an error, or is ignored.
        bootstrap: replicates for intervals; clips are drawn, each with all its sentences and conditions, and the same
            ones for the method and the baseline. 0 for none.
        seed: of the draws.

    Raises:
        CoverageError: a sample is missing or unknown, and that is an error.
        ValueError: no protocol was asked for, or one that the ground truth does not allow; the number of replicates
            is negative, or a policy is unknown.
    """
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be a number of replicates, 0 for none, got {bootstrap}")
    chosen, left_out = choose_protocols(protocols, ground_truth)
    samples = Samples.of(ground_truth)
    clip, num_clips = clip_rows(ground_truth.clips)
    own, coverage, known = score_samples(predictions, ground_truth, samples, chosen, missing=missing, unknown=unknown)
    base, baseline_coverage = None, None
    if baseline is not None:
        base, baseline_coverage, _ = score_samples(
            baseline, ground_truth, samples, chosen, missing=missing, unknown=unknown
        )
    true = ground_truth.tubes.boxes
    return Evaluation(
        dataset=ground_truth.dataset,
        split=ground_truth.split,
        method=predictions.method,
        baseline=None if baseline is None else baseline.method,
        lambda_hq=lambda_hq,
        num_items=samples.num_items,
        num_clips=num_clips,
        coverage=coverage,
        baseline_coverage=baseline_coverage,
        bootstrap=bootstrap,
        seed=seed,
        protocols={
            protocol: _summarise(
                ViewSums(samples, *own[protocol]),
                None if base is None else ViewSums(samples, *base[protocol]),
                lambda_hq,
                (drawn[:, clip] for drawn in drawn_counts(num_clips, bootstrap, seed)),
            )
            for protocol in chosen
        },
        left_out=left_out,
        frames_taken_out=int(np.isnan(true[:, 0]).sum()),
        boxes_without_area=int((true[:, :2] >= true[:, 2:]).any(axis=1).sum()),
        separation={}
        if predictions.verdicts is None
        else separation([predictions.conditions[index] for index in known], predictions.verdicts[known]),
    )


def _summarise(own: ViewSums, base: ViewSums | None, lambda_hq: float, draws: Iterator[np.ndarray]) -> ProtocolResult:
    whole = np.ones((1, own.num_items))
    metrics, baseline, differences = _numbers(own, base, lambda_hq, whole)
    replicates = [_numbers(own, base, lambda_hq, weights) for weights in draws]
    return ProtocolResult(
        metrics=_scalars(metrics),
        intervals=_intervals([part[0] for part in replicates]),
        baseline=_scalars(baseline),
        differences=_scalars(differences),
        difference_intervals=_intervals([part[2] for part in replicates]),
    )


Numbers = dict[str, np.ndarray]


def _numbers(own: ViewSums, base: ViewSums | None, lambda_hq: float, weights: np.ndarray) -> tuple[Numbers, ...]:
    """(R,) metrics of the method, of the baseline, and their differences, of each row of ``weights``."""
    metrics = own.means(weights)
    if base is None:
        return metrics, {}, {}
    baseline = base.means(weights)
    differences = {name: metrics[name] - baseline[name] for name in metrics}
    return with_adaptation_scores(metrics, baseline, lambda_hq), baseline, differences


def _scalars(numbers: Numbers) -> dict[str, float]:
    return {name: float(values[0]) for name, values in numbers.items()}


def _intervals(parts: Sequence[Numbers]) -> dict[str, Interval]:
    return {name: interval(np.concatenate([part[name] for part in parts])) for name in (parts[0] if parts else ())}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
