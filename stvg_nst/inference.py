"""How a clip is shown to the network when it is evaluated: at once, or in CG-STVG's two interleaved passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from stvg_nst.tubes import SampledClip, SampledTube, ShownClip, decode_tubes, interpolate_boxes, sample_tubes
from stvg_nst.types import Batch, ClipInfo, GroundingOutput, Tube

InferenceProtocol = Literal["single_pass", "two_pass"]
"""``single_pass``: all sampled frames together. ``two_pass``: those at even positions, then those at odd ones, each
half as a clip of its own; the span reaches from the earlier start to the later stop, with boxes from both halves."""

NEEDS_FRAMES = (
    "two_pass needs frames, got cached features: the video encoder must see each half of a clip alone; "
    "set --data.init_args.features null, or --model.inference single_pass"
)


def pass_frames(num_frames: int, protocol: InferenceProtocol) -> tuple[slice, ...]:
    """Which of a clip's sampled frames the network is shown together, one pass after the other."""
    if protocol == "single_pass":
        return (slice(None),)
    return tuple(slice(offset, None, 2) for offset in range(min(2, num_frames)))


def split_passes(batch: Batch, protocol: InferenceProtocol) -> tuple[Batch, ...]:
    """What the network is shown, one after the other.

    A clip of one frame is in the first pass only; a pass without clips is left out.

    Raises:
        ValueError: two passes over cached features, which hold what the video encoder makes of all frames together.
    """
    if protocol == "single_pass":
        return (batch,)
    if batch.frames is None:
        raise ValueError(NEEDS_FRAMES)
    return tuple(_every_other(batch, offset) for offset in (0, 1) if clips_of_pass(batch.clips, offset))


def join_passes(
    outputs: Sequence[GroundingOutput], clips: Sequence[SampledClip], protocol: InferenceProtocol
) -> tuple[Tube, ...]:
    """The tubes of the clips that :func:`split_passes` was given, or of those whose frames :func:`pass_frames` took.

    Args:
        outputs: the network's answer to each pass.
        clips: B of them, with all their frame ids.

    Returns:
        B tubes. After two passes, boxes are clamped to the frame at the left and top only, as in CG-STVG's evaluation.

    Raises:
        ValueError: the network's answer for a clip is not finite.
    """
    if protocol == "single_pass":
        (output,) = outputs
        return decode_tubes(output, clips)
    halves: list[list[SampledTube]] = [[] for _ in clips]
    for offset, output in enumerate(outputs):
        members = clips_of_pass(clips, offset)
        shown = (clips[member] for member in members)
        seen = [ShownClip(clip.item_id, clip.frame_ids[offset::2], clip.native_size) for clip in shown]
        for member, sampled in zip(members, sample_tubes(output, seen), strict=True):
            halves[member].append(sampled)
    return tuple(_union(parts) for parts in halves)


def join_verdicts(verdicts: Sequence[Tensor], clips: Sequence[ClipInfo], protocol: InferenceProtocol) -> Tensor:
    """What a router says of each clip (B,): the mean over the passes that show the clip.

    Args:
        verdicts: one for each clip of each pass.
        clips: B of them, with all their frame ids.
    """
    if protocol == "single_pass":
        (verdict,) = verdicts
        return verdict
    total, count = (verdicts[0].new_zeros(len(clips)) for _ in range(2))
    for offset, verdict in enumerate(verdicts):
        members = clips_of_pass(clips, offset)
        total[members] += verdict
        count[members] += 1
    return total / count


def _union(parts: Sequence[SampledTube]) -> Tube:
    """One tube from disjoint frames of one clip."""
    frame_ids = torch.tensor([frame for part in parts for frame in part.frame_ids])
    order = frame_ids.argsort()
    boxes = torch.cat([part.boxes for part in parts])[order].clamp(min=0)
    start, stop = min(part.start for part in parts), max(part.stop for part in parts)
    return Tube(start, stop, interpolate_boxes(frame_ids[order].tolist(), boxes, start, stop))


def clips_of_pass(clips: Sequence[SampledClip], offset: int) -> list[int]:
    """Indices of the clips that have a frame in the pass which begins at position ``offset``; all have one at 0."""
    return [index for index, clip in enumerate(clips) if len(clip.frame_ids) > offset]


def _every_other(batch: Batch, offset: int) -> Batch:
    assert batch.frames is not None
    members = clips_of_pass(batch.clips, offset)
    clips = [batch.clips[member] for member in members]

    def take(value: Tensor) -> Tensor:
        """(B, T, ...) -> its members and every other frame."""
        return value[members, offset::2]

    return Batch(
        clips=tuple(replace(clip, frame_ids=clip.frame_ids[offset::2]) for clip in clips),
        frames=take(batch.frames),
        features=None,
        frame_mask=take(batch.frame_mask),
        frame_sizes=tuple(batch.frame_sizes[member] for member in members),
        boxes=take(batch.boxes),
        inside=take(batch.inside),
        qualities=batch.qualities[members],
    )
