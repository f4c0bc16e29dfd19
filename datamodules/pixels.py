"""Where the sampled frames of a clip come from: its video, a cache of decoded frames, or files degraded beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from datamodules.caches.frames import FrameCache
from datamodules.degradation.files import DegradedFiles
from datamodules.degradation.golden_pixels import PixelOrigin, pixel_hashes
from datamodules.degradation.kinds import UNSEEN
from datamodules.degradation.severities import degrade
from datamodules.degradation.unseen import degrade_clip
from datamodules.records import Record
from datamodules.video import iter_frames, read_frames
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
        """uint8 (T, H, W, 3). A kind of D-1.1 is made of the record's video, whatever stands in for its frames."""
        if degradation is not None and degradation.kind in UNSEEN:
            return _read_unseen(record, frame_ids, degradation)
        if degradation is not None and self.degraded is not None:
            return self.degraded.read(record.clip_id, frame_ids, degradation, record.size)
        if self.frames is not None:
            clean = self.frames.read(record.clip_id, frame_ids)
        else:
            clean = read_frames(record.video, frame_ids, expected_size=record.size)
        return clean if degradation is None else degrade(clean, degradation)

    def origin(self, *, unseen: bool = False) -> PixelOrigin:
        """What makes the degraded pixels: this machine, or the one that wrote the files.

        Args:
            unseen: kinds of D-1.1 are among them.
        """
        if self.degraded is None:
            return PixelOrigin("on the fly", pixel_hashes(unseen=unseen))
        manifest = self.degraded.manifest
        return PixelOrigin(f"files, {manifest.encoding}", dict(manifest.pixels))

    def video_bytes(self, record: Record) -> int:
        """Size of the video that the record's frames come from; it may be gone where a cache or a copy replaces it.

        Raises:
            FileNotFoundError: it is gone, and nothing replaces it.
        """
        if self.frames is not None:
            return self.frames.video_bytes(record.clip_id)
        if self.degraded is not None and not record.video.is_file():
            return self.degraded.source_bytes(record.clip_id)
        return record.video.stat().st_size


def _read_unseen(record: Record, frame_ids: Sequence[int], degradation: Degradation) -> np.ndarray:
    start, stop = record.segment
    chunks = iter_frames(record.video, range(start, stop), expected_size=record.size)
    wanted = {frame_id - start for frame_id in frame_ids}
    clip = chain.from_iterable(chunks)
    return np.stack([*degrade_clip(clip, stop - start, degradation, wanted)])
