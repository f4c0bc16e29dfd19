"""From frames as loader processes leave them to what the network takes, on the device of the network.

A loader then hands over whole grey levels of native frames, a byte each. What the network takes has four bytes a value,
and often more values.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch

from datamodules.transforms import Resize, finish
from stvg_nst.types import Batch, QualityBatch

AnyBatch = TypeVar("AnyBatch", Batch, QualityBatch)


def finish_on_device(batch: Batch, resize: Resize | None) -> Batch:
    """A batch with its frames resized and normalised, and so those of its twins and of the clips that come with it.

    Args:
        batch: with frames uint8, as :func:`datamodules.clips.collate` makes them of clips that are not finished; any
            other is returned as it is.
        resize: as the loader would have done; ``None`` leaves the frames as large as they are.

    Returns:
        The same batch as of a loader that finishes clips itself, but for rounding; its frames within 1e-5.
    """
    return replace(
        _finished(batch, resize),
        twins=None if batch.twins is None else finish_on_device(batch.twins, resize),
        extra=None if batch.extra is None else _finished(batch.extra, resize),
    )


def _finished(batch: AnyBatch, resize: Resize | None) -> AnyBatch:
    if batch.frames is None or batch.frames.dtype != torch.uint8:
        return batch
    sizes = tuple(size if resize is None else resize.size(*size) for size in batch.frame_sizes)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    frames = torch.zeros(*batch.frames.shape[:3], height, width, device=batch.frames.device)
    for target, source, size, native in zip(frames, batch.frames, sizes, batch.frame_sizes, strict=True):
        finish(source[..., : native[0], : native[1]], target[..., : size[0], : size[1]], resize)
    frames.masked_fill_(~batch.frame_mask[:, :, None, None, None], 0.0)
    return replace(batch, frames=frames, frame_sizes=sizes)
