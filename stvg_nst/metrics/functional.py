"""Metrics as plain functions of their arguments."""

from __future__ import annotations

from stvg_nst.boxes import paired_iou
from stvg_nst.types import Tube


def tube_iou(pred: Tube, target: Tube) -> tuple[float, float]:
    """Temporal and spatio-temporal overlap of two tubes (tIoU, vIoU).

    vIoU sums the per-frame box IoU over the frames both tubes cover and divides by the frames either covers, so a
    perfect box outside the target's span costs as much as a wrong one. A frame whose true box is NaN is in neither
    tube.

    Args:
        pred, target: half-open spans in native frame indices; boxes (stop - start, 4), xyxy, native pixels, on one
            device. At least one box of the target is not NaN.

    Returns:
        ``(tIoU, vIoU)``, each in [0, 1], with vIoU <= tIoU.

    Source: VidSTG (Zhang et al., CVPR 2020).
    """
    start, stop = max(pred.start, target.start), min(pred.stop, target.stop)
    if stop <= start:
        return 0.0, 0.0
    counts = ~target.boxes.isnan().any(dim=1)
    in_both = counts[start - target.start : stop - target.start]
    shared = int(in_both.sum())
    covered = len(pred) + len(target) - (stop - start) - int((~counts).sum())
    overlap = paired_iou(
        pred.boxes[start - pred.start : stop - pred.start].double(),
        target.boxes[start - target.start : stop - target.start].double(),
    )
    return shared / covered, overlap[in_both].sum().item() / covered
