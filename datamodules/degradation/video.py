"""The degradation pipeline on a user's own video file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import rich.progress

from datamodules.degradation.kinds import UNSEEN, DegradationKind, UnseenKind, check_degradation
from datamodules.degradation.severities import degrade
from datamodules.degradation.unseen import degrade_clip
from datamodules.video import iter_frames, probe, write_video
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.types import Degradation, Kernels


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

    A few frames are in memory at a time. The target appears whole or not at all.

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
        ValueError: the kind or severity is unknown, the target is no mp4 file or is the source, or a side of the frames
            is odd.
        FileExistsError: the target exists.
        OSError: it cannot be written.
        VideoDecodeError: the source cannot be read.
    """
    source, target = Path(source), Path(target)
    check_degradation(kind, severity)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"the target is written as mp4 and must be named so, got '{target}'")
    check_outputs({"the target": target}, inputs=[source], replace=overwrite)
    info = probe(source)
    degradation = Degradation(kind, severity, seed, kernels)
    frames = rich.progress.track(
        _degraded(source, info.num_frames, degradation),
        description=f"degrading {source.name}",
        total=info.num_frames,
        disable=not progress,
    )
    write_video(target, frames, info.fps)


def _degraded(source: Path, num_frames: int, degradation: Degradation) -> Iterator[np.ndarray]:
    chunks = iter_frames(source, range(num_frames))
    if degradation.kind in UNSEEN:
        return degrade_clip(chain.from_iterable(chunks), num_frames, degradation, range(num_frames))
    return (frame for chunk in chunks for frame in degrade(chunk, degradation))
