"""The protocols by which the field counts a tube, all from one comparison of the predicted with the true boxes.

They differ in what they do with the last frame, with a frame without a box, and with frames between sampled ones. A
frame that the truth takes out is in neither tube, for all of them.
docs/evaluation.md says which published evaluator each follows, and what a perfect tube scores under it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stvg_nst.evaluation.tubes import Tubes

Protocol = Literal["half_open", "cgstvg", "hcstvg", "tubedetr"]
Scores = tuple[np.ndarray, np.ndarray]
"""tIoU and vIoU of N tubes, each (N,) float64 in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """N predicted tubes beside their true ones, and the M frames that both cover.

    Args:
        pred_start, pred_stop, true_start, true_stop: (N,) int64, half-open.
        row: (N,) int64, which of the true tubes each prediction is compared with.
        tube, frame: (M,) int64, which prediction and which native frame.
        iou: (M,) of the boxes there; NaN where the prediction or the truth has no box.
        taken_out: (L,) int64, ``frame_keys`` of the frames that count nowhere.
        sampled: (K,) int64, ``frame_keys`` of the true tubes' sampled frames; ``None`` where nobody knows them.
    """

    pred_start: np.ndarray
    pred_stop: np.ndarray
    true_start: np.ndarray
    true_stop: np.ndarray
    row: np.ndarray
    tube: np.ndarray
    frame: np.ndarray
    iou: np.ndarray
    taken_out: np.ndarray
    sampled: np.ndarray | None

    def sum_iou(self, counted: np.ndarray | None = None) -> np.ndarray:
        """(N,) sum over the shared frames, or those of them that are ``counted`` (M,); no box counts as no overlap."""
        iou = np.nan_to_num(self.iou)
        return np.bincount(self.tube, iou if counted is None else iou * counted, minlength=len(self.row))

    def frames_between(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """(N,) frames in each ``[start, stop)`` that count, none where it is empty."""
        stop = np.maximum(start, stop)
        taken_out = _count_between(self.taken_out, frame_keys(self.row, start), frame_keys(self.row, stop))
        return stop - start - taken_out


def overlap_tubes(pred: Tubes, true: Tubes, row: np.ndarray, sampled: np.ndarray | None = None) -> Overlap:
    """Lays N predicted tubes over their true ones; the arguments are as in ``Overlap``."""
    true_start, true_stop = true.start[row], true.stop[row]
    start, stop = np.maximum(pred.start, true_start), np.minimum(pred.stop, true_stop)
    shared = np.maximum(stop - start, 0)
    tube = np.repeat(np.arange(len(pred)), shared)
    frame = np.arange(len(tube)) + np.repeat(start - (np.cumsum(shared) - shared), shared)
    iou = _paired_iou(pred.boxes_at(tube, frame), true.boxes_at(row[tube], frame))
    return Overlap(pred.start, pred.stop, true_start, true_stop, row, tube, frame, iou, _taken_out(true), sampled)


def frame_keys(row: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """One number for a true tube and a native frame of its video, sorted as the pair is; frames are below 2 ** 32."""
    return (row.astype(np.int64) << 32) + frame


def half_open(overlap: Overlap) -> Scores:
    """Frames are what a tube is made of: ``[start, stop)`` has stop - start of them. The suite's own metric.

    Source: VidSTG (Zhang et al., CVPR 2020); ``stvg_nst.metrics.tube_iou`` gives the same numbers.
    """
    shared, covered = _shared_and_covered(overlap, overlap.true_stop)
    return shared / covered, overlap.sum_iou() / covered


def cgstvg(overlap: Overlap) -> Scores:
    """The true tube's last frame is taken for one past it, as in CG-STVG's code: a perfect tube of n frames scores
    (n - 1) / n, and one of a single frame 0.

    Source: CG-STVG's evaluation of HC-STVG, by its outputs on 200 tubes.
    """
    true_stop = overlap.true_stop - 1
    shared, covered = _shared_and_covered(overlap, true_stop)
    return shared / covered, overlap.sum_iou(overlap.frame < true_stop[overlap.tube]) / covered


def hcstvg(overlap: Overlap) -> Scores:
    """Both ends inclusive. Only frames where the prediction has a box are shared, for tIoU too; all of its span counts
    among the frames in either.

    Source: the evaluation script of the HC-STVG organisers.
    """
    boxed = np.bincount(overlap.tube, np.isfinite(overlap.iou), minlength=len(overlap.row))
    _, covered = _shared_and_covered(overlap, overlap.true_stop)
    return boxed / covered, overlap.sum_iou() / covered


def tubedetr(overlap: Overlap) -> Scores:
    """tIoU on native frames, vIoU on the sampled frames alone; a tube between two of them has vIoU 0.

    Source: TubeDETR (Yang et al., CVPR 2022), its evaluators after the correction of vIoU.
    """
    assert overlap.sampled is not None, "asked for without sampled frames"
    shared, covered = _shared_and_covered(overlap, overlap.true_stop)
    keys = frame_keys(overlap.row[overlap.tube], overlap.frame)
    counted = _count_between(overlap.sampled, keys, keys + 1)
    begin = frame_keys(overlap.row, np.minimum(overlap.pred_start, overlap.true_start))
    end = frame_keys(overlap.row, np.maximum(overlap.pred_stop, overlap.true_stop))
    # Where the spans share no frame this also counts the frames between them; the sum above it is 0 then.
    in_either = _count_between(np.setdiff1d(overlap.sampled, overlap.taken_out, assume_unique=True), begin, end)
    return shared / covered, overlap.sum_iou(counted) / np.maximum(in_either, 1)


PROTOCOLS: Mapping[Protocol, Callable[[Overlap], Scores]] = {
    "half_open": half_open,
    "cgstvg": cgstvg,
    "hcstvg": hcstvg,
    "tubedetr": tubedetr,
}


def _shared_and_covered(overlap: Overlap, true_stop: np.ndarray) -> Scores:
    """(N,) frames in both spans, and in either, if the true ones stop at ``true_stop``; the latter at least one."""
    start, stop = np.maximum(overlap.pred_start, overlap.true_start), np.minimum(overlap.pred_stop, true_stop)
    shared = overlap.frames_between(start, stop)
    predicted = overlap.frames_between(overlap.pred_start, overlap.pred_stop)
    covered = predicted + overlap.frames_between(overlap.true_start, true_stop) - shared
    return shared, np.maximum(covered, 1)


def _taken_out(true: Tubes) -> np.ndarray:
    lacking = np.flatnonzero(np.isnan(true.boxes[:, 0]))
    past = np.cumsum(true.stop - true.start)
    row = np.searchsorted(past, lacking, side="right")
    return frame_keys(row, true.stop[row] - (past[row] - lacking))


def _count_between(ordered: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How many of ``ordered``, which is sorted, lie in each ``[begin, end)``."""
    return np.searchsorted(ordered, end) - np.searchsorted(ordered, begin)


def _paired_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M,) IoU of ``a[i]`` with ``b[i]``, both (M, 4) xyxy; 0 for two boxes without area, NaN for a box of NaN."""
    width = np.maximum(np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0]), 0)
    height = np.maximum(np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1]), 0)
    intersection = width * height
    union = _area(a) + _area(b) - intersection
    return np.where(union == 0, 0.0, intersection / np.where(union == 0, 1.0, union))


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
