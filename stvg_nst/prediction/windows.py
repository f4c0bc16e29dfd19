"""A long film in overlapping windows: where they lie, which one holds the answer, and what a border has cut in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite

import torch
from torch import Tensor

from datamodules.base import CLIP_TOLERANCE
from stvg_nst.boxes import paired_iou
from stvg_nst.types import Tube

# Two tubes are one where their boxes on the frames that both cover overlap by this IoU on average.
SAME_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a film that the network is shown at once.

    Args:
        segment: half-open, native frames.
        fps: native frames per second.
    """

    segment: tuple[int, int]
    fps: float


@dataclass(frozen=True, slots=True)
class Finding:
    """What the network finds in one window.

    Args:
        frame_ids: T native frames that it was shown, strictly increasing.
        tube: the most probable one.
        confidence: of the tube, in [0, 1], see :func:`stvg_nst.prediction.network.tube_confidences`.
        quality: how degraded the router finds the window, from 0 (clean) to 1, ``None`` where there is no router.
    """

    frame_ids: tuple[int, ...]
    tube: Tube
    confidence: float
    quality: float | None


def cut_windows(segment: tuple[int, int], fps: float, seconds: float, overlap: float) -> tuple[Window, ...]:
    """The fewest windows of one length that cover a part of a film, spread evenly over it.

    Args:
        segment: of the film, half-open, native frames.
        fps: native frames per second.
        seconds: length of a window.
        overlap: seconds that neighbours share at least.

    Raises:
        ValueError: a length is no number, a window is shorter than two frames, or the overlap is none that leaves them
            room to move on.
    """
    if not (isfinite(seconds) and isfinite(overlap)):
        raise ValueError(f"expected a number of seconds, got a window of {seconds} and an overlap of {overlap}")
    start, stop = segment
    length, shared = round(seconds * fps), round(overlap * fps)
    if length < 2:
        raise ValueError(f"a window must hold two frames at least, got {seconds:g} s at {fps:g} frames per second")
    if not 0 <= shared < length:
        raise ValueError(f"an overlap must be at least 0 and less than the window, got {overlap:g} s of {seconds:g} s")
    if stop - start <= length * (1 + CLIP_TOLERANCE):
        return (Window(segment, fps),)
    steps = ceil((stop - start - length) / (length - shared))
    begins = [start + round(step * (stop - start - length) / steps) for step in range(steps + 1)]
    return tuple(Window((begin, begin + length), fps) for begin in begins)


def best_finding(findings: Sequence[Finding]) -> Finding:
    """The most confident finding, the earliest among equals, with the parts of its tube that borders have cut off.

    A tube is cut where it reaches one of the last two frames that its window was shown, or one of the first two. The
    tube of the next window, or of the one before, is its other part where the two have frames in common and their
    boxes agree there. On these frames the boxes pass linearly from the one to the other.

    Args:
        findings: of consecutive windows, at least one.
    """
    best = max(range(len(findings)), key=lambda index: findings[index].confidence)
    tube = findings[best].tube
    for later in range(best + 1, len(findings)):
        if not _cut_at_end(findings[later - 1]) or not _is_same(tube, findings[later].tube):
            break
        tube = _joined(tube, findings[later].tube)
    for earlier in reversed(range(best)):
        if not _cut_at_start(findings[earlier + 1]) or not _is_same(findings[earlier].tube, tube):
            break
        tube = _joined(findings[earlier].tube, tube)
    found = findings[best]
    return Finding(found.frame_ids, tube, found.confidence, found.quality)


def _cut_at_end(finding: Finding) -> bool:
    return finding.tube.stop > finding.frame_ids[-2:][0]


def _cut_at_start(finding: Finding) -> bool:
    return finding.tube.start <= finding.frame_ids[:2][-1]


def _is_same(earlier: Tube, later: Tube) -> bool:
    start, stop = max(earlier.start, later.start), min(earlier.stop, later.stop)
    if start >= stop:
        return False
    return float(paired_iou(_boxes(earlier, start, stop), _boxes(later, start, stop)).mean()) >= SAME_IOU


def _boxes(tube: Tube, start: int, stop: int) -> Tensor:
    return tube.boxes[start - tube.start : stop - tube.start]


def _joined(earlier: Tube, later: Tube) -> Tube:
    """One tube of two that have frames in common; one of them may lie within the other."""
    first, last = sorted((earlier, later), key=lambda tube: tube.start)
    start, stop = last.start, min(first.stop, last.stop)
    weight = torch.linspace(0, 1, stop - start + 2)[1:-1, None]
    shared = torch.lerp(_boxes(first, start, stop), _boxes(last, start, stop), weight)
    rest = first if first.stop > last.stop else last
    boxes = torch.cat([_boxes(first, first.start, start), shared, _boxes(rest, stop, rest.stop)])
    return Tube(first.start, rest.stop, boxes)
