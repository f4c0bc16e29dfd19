"""From the network's answer on sampled frames to a tube on native frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from stvg_nst.boxes import cxcywh_to_xyxy
from stvg_nst.types import GroundingOutput, Tube


class SampledClip(Protocol):
    """What must be known of a clip for the network's answer to become a tube; the truth is no part of it."""

    @property
    def item_id(self) -> str:
        """For messages."""

    @property
    def frame_ids(self) -> tuple[int, ...]:
        """T native indices of the sampled frames, strictly increasing."""

    @property
    def native_size(self) -> tuple[int, int]:
        """(H, W) of the video."""


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A :class:`SampledClip` and no more: some frames of a film, or some of a clip's own."""

    item_id: str
    frame_ids: tuple[int, ...]
    native_size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SampledTube:
    """What the network says of one clip, on its sampled frames.

    Args:
        start, stop: the most probable span, half-open, native frame indices.
        frame_ids: T native indices of the sampled frames.
        boxes: (T, 4) float32 on the CPU, xyxy in native pixels, not clamped to the frame.
    """

    start: int
    stop: int
    frame_ids: tuple[int, ...]
    boxes: Tensor


def decode_tubes(output: GroundingOutput, clips: Sequence[SampledClip]) -> tuple[Tube, ...]:
    """The most probable tube of each clip, see :func:`sample_tubes`; boxes are clamped to the frame, then interpolated.

    Args:
        output: of B clips with up to T sampled frames, on any device and in any precision.
        clips: B of them; frame ids, native sizes.

    Returns:
        B tubes, boxes float32 on the CPU.

    Raises:
        ValueError: the network's answer for a clip is not finite.
    """
    tubes = []
    for sampled, clip in zip(sample_tubes(output, clips), clips, strict=True):
        boxes = clip_boxes_to_image(sampled.boxes, clip.native_size)
        dense = interpolate_boxes(sampled.frame_ids, boxes, sampled.start, sampled.stop)
        tubes.append(Tube(sampled.start, sampled.stop, dense))
    return tuple(tubes)


def sample_tubes(output: GroundingOutput, clips: Sequence[SampledClip]) -> tuple[SampledTube, ...]:
    """The most probable span of each clip and the boxes on its sampled frames, by the last decoder stage.

    The first and the last frame are the pair ``i < j`` of real frames with the largest
    ``log_softmax(start)[i] + log_softmax(end)[j]``, the earliest pair among equals (``i == j`` only where a clip has
    one real frame); the span is ``[frame_ids[i], frame_ids[j] + 1)``.

    Raises:
        ValueError: the network's answer for a clip is not finite.
    """
    first, last, score = _best_spans(output.start_end[-1].detach().float(), output.frame_mask)
    boxes = cxcywh_to_xyxy(output.boxes[-1].detach().float())
    num_frames = output.frame_mask.sum(dim=1)
    # Packed as one tensor because every transfer waits for the device; float32 is exact for indices below 2 ** 24.
    columns = torch.stack([first, last, num_frames, score], dim=1)
    packed = torch.cat([columns, boxes.flatten(1)], dim=1).cpu()
    return tuple(
        _sampled_tube(row[:4].tolist(), row[4:].reshape(-1, 4), clip) for row, clip in zip(packed, clips, strict=True)
    )


def interpolate_boxes(frame_ids: Sequence[int], boxes: Tensor, start: int, stop: int) -> Tensor:
    """Boxes on every native frame of ``[start, stop)``, linear between the two nearest sampled frames.

    Args:
        frame_ids: T native indices, strictly increasing.
        boxes: (T, 4), any format that is linear in its coordinates.
        start, stop: a span within ``[frame_ids[0], frame_ids[-1] + 1)``.

    Returns:
        (stop - start, 4), equal to ``boxes`` on sampled frames.

    Raises:
        ValueError: the span leaves the sampled frames, where there is nothing to interpolate between.
    """
    if not frame_ids[0] <= start < stop <= frame_ids[-1] + 1:
        raise ValueError(
            f"boxes are known on frames [{frame_ids[0]}, {frame_ids[-1] + 1}), got the span [{start}, {stop}); "
            "sample frames on both sides of it"
        )
    ids = torch.tensor(frame_ids, device=boxes.device)
    frames = torch.arange(start, stop, device=boxes.device)
    right = torch.searchsorted(ids, frames)
    left = (right - 1).clamp(min=0)
    weight = (frames - ids[left]) / (ids[right] - ids[left]).clamp(min=1)
    return torch.lerp(boxes[left], boxes[right], weight.to(boxes.dtype).unsqueeze(1))


def _best_spans(start_end: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) sampled index of the first frame, (B,) of the last, and (B,) their log-probability.

    Args:
        start_end: (B, T, 2) float32 logits.
        frame_mask: (B, T) bool.
    """
    num_frames = frame_mask.shape[1]
    log_probability = start_end.masked_fill(~frame_mask.unsqueeze(2), float("-inf")).log_softmax(dim=1)
    scores_BTT = log_probability[:, :, None, 0] + log_probability[:, None, :, 1]
    ordered = torch.ones(num_frames, num_frames, dtype=torch.bool, device=frame_mask.device).triu(diagonal=1)
    alone = frame_mask.sum(dim=1) == 1
    allowed_BTT = ordered | (alone[:, None, None] & torch.eye(num_frames, dtype=torch.bool, device=frame_mask.device))
    score, index = scores_BTT.masked_fill(~allowed_BTT, float("-inf")).flatten(1).max(dim=1)
    return index // num_frames, index % num_frames, score


def _sampled_tube(decision: Sequence[float], boxes: Tensor, clip: SampledClip) -> SampledTube:
    """One clip's, from its ``(first, last, num_frames, score)`` and (T, 4) boxes, xyxy in units of the frame."""
    first, last, num_frames = (int(value) for value in decision[:3])
    assert num_frames == len(clip.frame_ids), (
        f"clip '{clip.item_id}': {num_frames} real frames, {len(clip.frame_ids)} ids"
    )
    height, width = clip.native_size
    native = boxes[:num_frames] * torch.tensor([width, height] * 2)
    if not (torch.tensor(decision[3]).isfinite() and native.isfinite().all()):
        raise ValueError(
            f"the network's answer for clip '{clip.item_id}' is not finite; the weights have diverged, "
            "so lower the learning rate or clip the gradient"
        )
    return SampledTube(clip.frame_ids[first], clip.frame_ids[last] + 1, clip.frame_ids, native)
