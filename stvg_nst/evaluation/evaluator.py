"""From predicted and true tubes to every number of the benchmark, by every protocol, in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from stvg_nst.adaptation import adaptation_scores
from stvg_nst.evaluation.protocols import PROTOCOLS, Protocol, Scores, frame_keys, overlap_tubes
from stvg_nst.evaluation.tubes import GroundTruth, Predictions
from stvg_nst.evaluation.views import Samples, ViewSums

LEVEL = 0.95
"""Of the bootstrap's percentile intervals."""

_REPLICATES_AT_ONCE = 64
_TUBES_AT_ONCE = 2048
_SCHEMA = 1


class CoverageError(ValueError):
    """Predictions and ground truth do not speak of the same samples."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """What of the ground truth a file of predictions answers.

    Args:
        samples: pairs of item and condition that the ground truth asks for.
        missing: of them, those without a prediction; they score 0.
        unknown: predictions that nobody asked for; they count nowhere.
        frames_without_box: frames of the counted predictions whose box is null.
    """

    samples: int
    missing: int
    unknown: int
    frames_without_box: int


Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ProtocolResult:
    """The numbers of one protocol, in percent points, by ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``.

    Args:
        metrics: of the method; with a baseline, the ``WAS/`` too. NaN where a number is undefined: LQ relative to an
            HQ of 0.
        intervals: of ``metrics``; empty without bootstrap.
        baseline: metrics of the baseline; empty without one, as are the next two.
        differences: method less baseline.
        difference_intervals: of ``differences``, paired over items; empty without bootstrap.
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
        num_items: of the ground truth, what a bootstrap draws from.
        coverage, baseline_coverage: what the predictions answered.
        bootstrap, seed: replicates, and the seed of their draws; 0 replicates are no bootstrap.
        protocols: the numbers by protocol.
        left_out: protocols that could not be computed, and why.
    """

    dataset: str
    split: str
    method: str
    baseline: str | None
    lambda_hq: float
    num_items: int
    coverage: Coverage
    baseline_coverage: Coverage | None
    bootstrap: int
    seed: int
    protocols: Mapping[Protocol, ProtocolResult]
    left_out: Mapping[Protocol, str]

    def as_json(self) -> dict[str, Any]:
        """The content of the file of results; a number that is undefined is null."""
        return _without_nan({"schema": _SCHEMA, "level": LEVEL, **asdict(self)})


def evaluate(
    predictions: Predictions,
    ground_truth: GroundTruth,
    *,
    baseline: Predictions | None = None,
    protocols: Sequence[Protocol] | None = None,
    lambda_hq: float = 1.0,
    missing: Literal["error", "zero"] = "error",
    unknown: Literal["error", "ignore"] = "error",
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
        bootstrap: replicates for intervals; items are drawn, each with all its conditions, and the same ones for the
            method and the baseline. 0 for none.
        seed: of the draws.

    Raises:
        CoverageError: a sample is missing or unknown, and that is an error.
        ValueError: a protocol that the ground truth does not allow was asked for, or the numbers of replicates is
            negative.
    """
    if bootstrap < 0:
        raise ValueError(f"bootstrap must be a number of replicates, 0 for none, got {bootstrap}")
    chosen, left_out = _choose_protocols(protocols, ground_truth)
    samples = Samples.of(ground_truth)
    policy = {"missing": missing, "unknown": unknown}
    own, coverage = _score(predictions, ground_truth, samples, chosen, **policy)
    base, baseline_coverage = None, None
    if baseline is not None:
        base, baseline_coverage = _score(baseline, ground_truth, samples, chosen, **policy)
    return Evaluation(
        dataset=ground_truth.dataset,
        split=ground_truth.split,
        method=predictions.method,
        baseline=None if baseline is None else baseline.method,
        lambda_hq=lambda_hq,
        num_items=samples.num_items,
        coverage=coverage,
        baseline_coverage=baseline_coverage,
        bootstrap=bootstrap,
        seed=seed,
        protocols={
            protocol: _summarise(
                ViewSums(samples, *own[protocol]),
                None if base is None else ViewSums(samples, *base[protocol]),
                lambda_hq,
                _draws(samples.num_items, bootstrap, seed),
            )
            for protocol in chosen
        },
        left_out=left_out,
    )


def _choose_protocols(
    asked: Sequence[Protocol] | None, ground_truth: GroundTruth
) -> tuple[tuple[Protocol, ...], dict[Protocol, str]]:
    left_out: dict[Protocol, str] = {}
    for item_id, frames in zip(ground_truth.item_ids, ground_truth.sampled_frames, strict=True):
        if frames is None:
            left_out["tubedetr"] = f"the ground truth does not say which frames are sampled of item '{item_id}'"
            break
    if asked is None:
        return tuple(protocol for protocol in PROTOCOLS if protocol not in left_out), left_out
    for protocol in asked:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'")
        if protocol in left_out:
            raise ValueError(
                f"protocol {protocol} cannot be computed: {left_out[protocol]}; add sampled_frames to every tube of "
                "the ground truth, or choose other protocols"
            )
    return tuple(dict.fromkeys(asked)), {}


def _score(
    predictions: Predictions,
    ground_truth: GroundTruth,
    samples: Samples,
    protocols: Sequence[Protocol],
    *,
    missing: str,
    unknown: str,
) -> tuple[dict[Protocol, Scores], Coverage]:
    """tIoU and vIoU of every sample by every protocol; both are 0 where nothing was predicted."""
    asked = {
        (ground_truth.item_ids[row], condition): index
        for index, (row, condition) in enumerate(zip(samples.row.tolist(), samples.conditions, strict=True))
    }
    answered = list(zip(predictions.item_ids, predictions.conditions, strict=True))
    sample = np.array([asked.get(key, -1) for key in answered], dtype=np.int64)
    known = np.flatnonzero(sample >= 0)
    strangers = [key for key, index in zip(answered, sample, strict=True) if index < 0]
    if strangers and unknown == "error":
        raise CoverageError(
            f"{len(strangers)} of the {len(answered)} tubes of {predictions.method} were not asked for, the first for "
            f"{_named(*strangers[0])}; evaluate them on their own ground truth, or ignore them with --unknown ignore"
        )
    gaps = asked.keys() - set(answered)
    if gaps and missing == "error":
        earliest = min(gaps, key=asked.__getitem__)
        raise CoverageError(
            f"{predictions.method} lacks {len(gaps)} of the {len(asked)} tubes, the first for {_named(*earliest)}; "
            "predict them, or score each of them 0 with --missing zero"
        )
    scores: dict[Protocol, Scores] = {name: (np.zeros(len(asked)), np.zeros(len(asked))) for name in protocols}
    sampled = _sampled_keys(ground_truth)
    boxless = 0
    for first in range(0, len(known), _TUBES_AT_ONCE):
        part = known[first : first + _TUBES_AT_ONCE]
        pred = predictions.tubes.take(part)
        overlap = overlap_tubes(pred, ground_truth.tubes, samples.row[sample[part]], sampled)
        for name in protocols:
            for whole, piece in zip(scores[name], PROTOCOLS[name](overlap), strict=True):
                whole[sample[part]] = piece
        boxless += int(np.isnan(pred.boxes[:, 0]).sum())
    return scores, Coverage(len(asked), len(gaps), len(strangers), boxless)


def _sampled_keys(ground_truth: GroundTruth) -> np.ndarray | None:
    frames = [frames for frames in ground_truth.sampled_frames if frames is not None]
    if len(frames) < len(ground_truth.sampled_frames):
        return None
    return frame_keys(np.repeat(np.arange(len(frames)), [len(part) for part in frames]), np.concatenate(frames))


def _draws(num_items: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """(R, I) arrays: how often each replicate has drawn each item."""
    generator = np.random.default_rng(seed)
    for first in range(0, replicates, _REPLICATES_AT_ONCE):
        rows = min(_REPLICATES_AT_ONCE, replicates - first)
        drawn = generator.integers(num_items, size=(rows, num_items)) + num_items * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * num_items).reshape(rows, num_items).astype(float)


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
    return {**metrics, **adaptation_scores(metrics, baseline, lambda_hq)}, baseline, differences


def _scalars(numbers: Numbers) -> dict[str, float]:
    return {name: float(values[0]) for name, values in numbers.items()}


def _intervals(parts: Sequence[Numbers]) -> dict[str, Interval]:
    """Percentiles over all replicates in which a number is defined."""
    if not parts:
        return {}
    intervals = {}
    for name in parts[0]:
        values = np.concatenate([part[name] for part in parts])
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else (math.nan, math.nan)
        intervals[name] = float(low), float(high)
    return intervals


def _named(item_id: str, condition: str) -> str:
    return f"item '{item_id}' in condition '{condition}'"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
