"""Clips through visual encoders: each as if it were alone, whatever else is in its batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.types import BackboneFeatures


def encode_clips(
    frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]], visual: nn.Module, motion: nn.Module
) -> BackboneFeatures:
    """Appearance and motion features of every clip as if it were alone, padded to the largest.

    Clips of one length and size are encoded together. Padding never enters an encoder: convolutions and shifted windows
    would mix it into the clip. An encoder that is wholly frozen keeps nothing for a backward pass.

    Args:
        frames: (B, T, 3, H, W), normalised, padded at the end of time and at the right and bottom.
        frame_mask: (B, T) bool, True on real frames.
        frame_sizes: (H, W) of each clip before padding.
        visual, motion: encoders of (B, T, 3, H, W) as (B, T, C, h, w).

    Raises:
        ValueError: the two encoders make different grids of one clip.
    """
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, (length, size) in enumerate(zip(frame_mask.sum(1).tolist(), frame_sizes, strict=True)):
        groups[(length, *size)].append(index)

    encoded: dict[int, tuple[Tensor, Tensor]] = {}
    for (length, height, width), members in groups.items():
        clips = frames[members, :length, :, :height, :width]
        appearance, motion_map = _outside_autograd(visual, clips), _outside_autograd(motion, clips)
        if appearance.shape[-2:] != motion_map.shape[-2:]:
            raise ValueError(
                f"frames of {height} x {width} give an appearance grid {tuple(appearance.shape[-2:])} but a motion "
                f"grid {tuple(motion_map.shape[-2:])}; choose sizes that both encoders divide alike"
            )
        encoded.update(zip(members, zip(appearance, motion_map, strict=True), strict=True))
    ordered = [encoded[index] for index in range(len(frames))]
    return _pad_features(ordered, frames.shape[1])


def _outside_autograd(encoder: nn.Module, clips: Tensor) -> Tensor:
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
        return encoder(clips)


def _pad_features(encoded: Sequence[tuple[Tensor, Tensor]], num_frames: int) -> BackboneFeatures:
    """Stacks per-clip features (T_i, C, h_i, w_i), padded with zeros at the end of time and at the right and bottom."""
    rows = max(appearance.shape[-2] for appearance, _ in encoded)
    columns = max(appearance.shape[-1] for appearance, _ in encoded)

    def stack(maps: Sequence[Tensor]) -> Tensor:
        def padding(source: Tensor) -> tuple[int, ...]:
            """From the last axis to the first, before and behind."""
            return 0, columns - source.shape[3], 0, rows - source.shape[2], 0, 0, 0, num_frames - source.shape[0]

        return torch.stack([F.pad(source, padding(source)) for source in maps])

    appearance, motion = (stack(maps) for maps in zip(*encoded, strict=True))
    cell_mask = torch.zeros(len(encoded), rows, columns, dtype=torch.bool, device=appearance.device)
    for mask, (source, _) in zip(cell_mask, encoded, strict=True):
        mask[: source.shape[-2], : source.shape[-1]] = True
    return BackboneFeatures(appearance, motion, cell_mask)
