"""Clips through visual encoders: each as if it were alone, whatever else is in its batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.types import BackboneFeatures


def encode_clips(
    frames: Tensor,
    frame_mask: Tensor,
    frame_sizes: Sequence[tuple[int, int]],
    visual: nn.Module,
    motion: nn.Module | None = None,
) -> BackboneFeatures:
    """Features of every clip as if it were alone, padded to the largest.

    Clips of one length and size are encoded together. Padding never enters an encoder: convolutions and shifted windows
    would mix it into the clip. An encoder that is wholly frozen keeps nothing for a backward pass.

    Args:
        frames: (B, T, 3, H, W), normalised, padded at the end of time and at the right and bottom.
        frame_mask: (B, T) bool, True on real frames.
        frame_sizes: (H, W) of each clip before padding.
        visual: encoder of (B, T, 3, H, W) as appearance (B, T, C_a, h, w).
        motion: the same of motion, with the same grid.

    Raises:
        ValueError: the two encoders make different grids of one clip.
    """
    encoders = (visual,) if motion is None else (visual, motion)
    groups: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for index, (length, size) in enumerate(zip(frame_mask.sum(1).tolist(), frame_sizes, strict=True)):
        groups[(length, *size)].append(index)

    encoded: dict[int, tuple[Tensor, ...]] = {}
    for (length, height, width), members in groups.items():
        clips = frames[members, :length, :, :height, :width]
        maps = [_outside_autograd(encoder, clips) for encoder in encoders]
        if len(grids := [tuple(each.shape[-2:]) for each in maps]) > 1 and grids[0] != grids[1]:
            raise ValueError(
                f"frames of {height} x {width} give an appearance grid {grids[0]} but a motion grid {grids[1]}; choose "
                "sizes that both encoders divide alike"
            )
        encoded.update(zip(members, zip(*maps, strict=True), strict=True))
    return _pad_features([encoded[index] for index in range(len(frames))], frames.shape[1])


def cell_tokens(maps: Tensor) -> Tensor:
    """(B, T, C, h, w) -> (B, T, N, C), one token a cell."""
    return maps.flatten(3).transpose(2, 3)


def _outside_autograd(encoder: nn.Module, clips: Tensor) -> Tensor:
    trained = any(parameter.requires_grad for parameter in encoder.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
        return encoder(clips)


def _pad_features(encoded: Sequence[tuple[Tensor, ...]], num_frames: int) -> BackboneFeatures:
    """Stacks per-clip maps (T_i, C, h_i, w_i), padded with zeros at the end of time and at the right and bottom."""
    rows, columns = (max(maps[0].shape[axis] for maps in encoded) for axis in (-2, -1))

    def padded(source: Tensor) -> Tensor:
        """From the last axis to the first, before and behind."""
        over = columns - source.shape[3], rows - source.shape[2], 0, num_frames - source.shape[0]
        return F.pad(source, [size for each in over for size in (0, each)])

    cell_mask = torch.zeros(len(encoded), rows, columns, dtype=torch.bool, device=encoded[0][0].device)
    for mask, maps in zip(cell_mask, encoded, strict=True):
        mask[: maps[0].shape[-2], : maps[0].shape[-1]] = True
    stacked = (torch.stack(list(map(padded, kind))) for kind in zip(*encoded, strict=True))
    return BackboneFeatures.of(*stacked, cell_mask=cell_mask)
