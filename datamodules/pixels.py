"""Where the sampled frames of a clip come from: its video, a cache of decoded frames, or files degraded beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.degradations import degrade
from datamodules.degraded_files import DegradedFiles
from datamodules.frames import FrameCache
from datamodules.records import Record
from datamodules.video import read_frames
from stvg_nst.types import Degradation


@dataclass(frozen=True, slots=True)
class PixelSource:
    """Reads native frames in a quality.

    Args:
        frames: clean frames, or ``None`` to decode them from the record's video.
        degraded: degraded videos, or ``None`` to degrade on the fly.
    """

    frames: FrameCache | None = None
    degraded: DegradedFiles | None = None

    def read(self, record: Record, frame_ids: Sequence[int], degradation: Degradation | None) -> np.ndarray:
        """uint8 (T, H, W, 3)."""
        if degradation is not None and self.degraded is not None:
            return self.degraded.read(record.clip_id, frame_ids, degradation, record.size)
        if self.frames is not None:
            clean = self.frames.read(record.clip_id, frame_ids)
        else:
            clean = read_frames(record.video, frame_ids, expected_size=record.size)
        return clean if degradation is None else degrade(clean, degradation)
