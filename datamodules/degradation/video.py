"""The degradation pipeline on a user's own video file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import rich.progress
from rich.markup import escape

from datamodules.degradation.kinds import UNSEEN, DegradationKind, UnseenKind, check_degradation
from datamodules.degradation.severities import degrade
from datamodules.degradation.unseen import degrade_clip
from datamodules.playable import write_playable
from datamodules.video import iter_frames, timeline
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.types import Degradation, Kernels

_CRF = 18  # visually lossless


def degrade_video(
    source: Path,
    target: Path,
    *,
    kind: DegradationKind | UnseenKind,
    severity: int,
    seed: int = 0,
    kernels: Kernels = "relative",
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Writes a degraded copy of a video, as the Mixed-Quality benchmark would show it; sound is left out.

    It is H.264 that browsers play, at the times of the source and with pixels of its shape; a side that is odd gets one
    more row or column. One decoded frame is in memory at a time. The target appears whole or not at all.

    Args:
        source: a video file.
        target: the mp4 file to write.
        kind: of degradation.
        severity: 1 (mild) to 5 (severe).
        seed: fixes what the severity leaves open, once for the whole video.
        kernels: whether they scale with the short side of the frames.
        overwrite: replace an existing target.
        progress: show a progress bar.

    Raises:
        ValueError: the kind or severity is unknown, the target is no mp4 file or is the source.
        FileExistsError: the target exists.
        OSError: it cannot be written.
        VideoDecodeError: the source cannot be read.
    """
    source, target = Path(source), Path(target)
    check_degradation(kind, severity)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"the target is written as mp4 and must be named so, got '{target}'")
    check_outputs({"the target": target}, inputs=[source], replace=overwrite)
    line = timeline(source)
    info = line.info
    degradation = Degradation(kind, severity, seed, kernels)
    frames = rich.progress.track(
        _degraded(source, info.num_frames, degradation),
        description=f"degrading {escape(source.name)}",
        total=info.num_frames,
        disable=not progress,
    )
    write_playable(target, frames, line.times, fps=info.fps, pixel_aspect=info.pixel_aspect, crf=_CRF)


def _degraded(source: Path, num_frames: int, degradation: Degradation) -> Iterator[np.ndarray]:
    chunks = iter_frames(source, range(num_frames), chunk_size=1)  # a frame of 4K takes 24 MiB
    if degradation.kind in UNSEEN:
        return degrade_clip(chain.from_iterable(chunks), num_frames, degradation, range(num_frames))
    return (frame for chunk in chunks for frame in degrade(chunk, degradation))
