"""Which prediction answers which sample, and how well by each protocol."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from stvg_nst.evaluation.protocols import PROTOCOLS, Protocol, Scores, frame_keys, overlap_tubes
from stvg_nst.evaluation.tubes import GroundTruth, Predictions
from stvg_nst.evaluation.views import Samples

Missing = Literal["error", "zero"]
Unknown = Literal["error", "ignore"]

_TUBES_AT_ONCE = 2048


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


def choose_protocols(
    asked: Sequence[Protocol] | None, ground_truth: GroundTruth
) -> tuple[tuple[Protocol, ...], dict[Protocol, str]]:
    """Those that were asked for, or all that the ground truth allows; and why the others among all are left out.

    Raises:
        ValueError: none is asked for, or one that is unknown or not allowed.
    """
    left_out: dict[Protocol, str] = {}
    for item_id, frames in zip(ground_truth.item_ids, ground_truth.sampled_frames, strict=True):
        if frames is None:
            left_out["tubedetr"] = f"the ground truth does not say which frames are sampled of item '{item_id}'"
            break
    if asked is None:
        return tuple(protocol for protocol in PROTOCOLS if protocol not in left_out), left_out
    if not asked:
        raise ValueError(f"at least one protocol must be asked for, of {', '.join(PROTOCOLS)}; None is all of them")
    for protocol in asked:
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got '{protocol}'")
        if protocol in left_out:
            raise ValueError(
                f"protocol {protocol} cannot be computed: {left_out[protocol]}; add sampled_frames to every tube of "
                "the ground truth, or choose other protocols"
            )
    return tuple(dict.fromkeys(asked)), {}


def score_samples(
    predictions: Predictions,
    ground_truth: GroundTruth,
    samples: Samples,
    protocols: Sequence[Protocol],
    *,
    missing: Missing,
    unknown: Unknown,
) -> tuple[dict[Protocol, Scores], Coverage, np.ndarray]:
    """tIoU and vIoU of every sample by every protocol; both are 0 where nothing was predicted.

    Returns:
        Scores, coverage, and (K,) int64, the indices of the predictions that were asked for.

    Raises:
        CoverageError: a sample is missing or unknown, and that is an error.
        ValueError: a policy is unknown.
    """
    for name, policy, choices in (("missing", missing, get_args(Missing)), ("unknown", unknown, get_args(Unknown))):
        if policy not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got '{policy}'")
    true_ids, predicted_ids = _in_one_form(ground_truth.item_ids, predictions)
    asked = {
        (true_ids[row], condition): index
        for index, (row, condition) in enumerate(zip(samples.row.tolist(), samples.conditions, strict=True))
    }
    answered = list(zip(predicted_ids, predictions.conditions, strict=True))
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
    scores: dict[Protocol, Scores] = {protocol: (np.zeros(len(asked)), np.zeros(len(asked))) for protocol in protocols}
    sampled = _sampled_keys(ground_truth)
    boxless = 0
    for first in range(0, len(known), _TUBES_AT_ONCE):
        part = known[first : first + _TUBES_AT_ONCE]
        pred = predictions.tubes.take(part)
        overlap = overlap_tubes(pred, ground_truth.tubes, samples.row[sample[part]], sampled)
        for protocol in protocols:
            for whole, piece in zip(scores[protocol], PROTOCOLS[protocol](overlap), strict=True):
                whole[sample[part]] = piece
        boxless += int(np.isnan(pred.boxes[:, 0]).sum())
    return scores, Coverage(len(asked), len(gaps), len(strangers), boxless), known


def _in_one_form(item_ids: Sequence[str], predictions: Predictions) -> tuple[Sequence[str], Sequence[str]]:
    """The ids of both sides with their letters composed (NFC): a file system may have taken accents from letters.

    Ids that differ in nothing else stay as they are.

    Raises:
        CoverageError: two predictions are for one sample, by two forms of its id.
    """
    composed = [unicodedata.normalize("NFC", item_id) for item_id in item_ids]
    if len(set(composed)) < len(item_ids):
        return item_ids, predictions.item_ids
    predicted = [unicodedata.normalize("NFC", item_id) for item_id in predictions.item_ids]
    counts = Counter(zip(predicted, predictions.conditions, strict=True))
    if counts and (most := counts.most_common(1)[0])[1] > 1:
        raise CoverageError(
            f"{predictions.method} has {most[1]} tubes for {_named(*most[0])}, whose id they write in different "
            "Unicode forms; keep one"
        )
    return composed, predicted


def _sampled_keys(ground_truth: GroundTruth) -> np.ndarray | None:
    frames = [frames for frames in ground_truth.sampled_frames if frames is not None]
    if len(frames) < len(ground_truth.sampled_frames):
        return None
    return frame_keys(np.repeat(np.arange(len(frames)), [len(part) for part in frames]), np.concatenate(frames))


def _named(item_id: str, condition: str) -> str:
    return f"item '{item_id}' in condition '{condition}'"
