"""What may be asked about: a few clips of the benchmark, and a film that somebody uploads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.degradation.kinds import DegradationKind
from datamodules.degradation.severities import degrade
from datamodules.degradation.video import degrade_video
from datamodules.footage import Footage, open_footage
from datamodules.ministvg.store import ensure_split, load_annotations
from stvg_nst.types import Degradation, Tube

NUM_CLIPS = 16
LARGEST_MB, LONGEST_SECONDS, LARGEST_SIDE = 50, 60, 1920
"""Of an upload: what a laptop answers within a minute or two."""
PREVIEW_HEIGHT = 256


@dataclass(frozen=True, slots=True)
class Film:
    """A film to ask about.

    Args:
        file: where it lies.
        sentences: that are known to fit it.
        truth: the tube of each of these sentences; ``None`` where it is not known.
    """

    file: Path
    sentences: tuple[str, ...] = ()
    truth: Tube | None = None


def benchmark_films(root: Path) -> dict[str, Film]:
    """The first clips of MiniSTVG's test split by name, rendered now where they are not there yet."""
    annotations = load_annotations(ensure_split(root, "test", num_clips=NUM_CLIPS), num_clips=NUM_CLIPS)
    return {
        clip.clip_id: Film(clip.file, (clip.declarative, clip.interrogative), clip.target_tube())
        for clip in annotations
    }


def admit_upload(file: Path, uploads: Path) -> Film:
    """An uploaded film, once all of it has been decoded: its name says nothing about what it is.

    Args:
        file: that the browser names.
        uploads: folder of all uploads; nothing outside of it is opened.

    Raises:
        ValueError: the file lies elsewhere, or the film is too large or too long.
        VideoDecodeError: it is no video, or a damaged one.
    """
    place = file.resolve()
    if not place.is_relative_to(uploads.resolve()) or not place.is_file():
        raise ValueError("only a film that was uploaded here can be asked about; upload it again")
    megabytes = place.stat().st_size / 1e6
    if megabytes > LARGEST_MB:
        raise ValueError(f"expected a film of at most {LARGEST_MB} MB, got {megabytes:.0f} MB; cut a piece out of it")
    footage = open_footage(place)
    if footage.seconds > LONGEST_SECONDS:
        raise ValueError(
            f"expected a film of at most {LONGEST_SECONDS} s, got {footage.seconds:.0f} s; cut a piece out of it, or "
            "use `python -m stvg_nst predict`, which takes films of any length"
        )
    if max(footage.size) > LARGEST_SIDE:
        height, width = footage.size
        raise ValueError(f"expected at most {LARGEST_SIDE} pixels a side, got {width} x {height}; make it smaller")
    return Film(place)


def preview(footage: Footage, kind: DegradationKind | None, severity: int) -> np.ndarray:
    """The middle frame, and beside it what is left of it, (H, W, 3) uint8; small frames are enlarged."""
    (frame,) = footage.frames([len(footage) // 2])
    shown = frame
    if kind is not None:
        gap = np.full((frame.shape[0], max(2, frame.shape[1] // 40), 3), 255, dtype=np.uint8)
        shown = np.concatenate([frame, gap, degrade(frame[None], Degradation(kind, severity, 0))[0]], axis=1)
    scale = max(1, PREVIEW_HEIGHT // frame.shape[0])
    return shown.repeat(scale, axis=0).repeat(scale, axis=1)


def degraded_copy(film: Path, kind: DegradationKind, severity: int, folder: Path) -> Path:
    """The whole film as the preview shows one frame of it."""
    target = folder / "degraded.mp4"
    degrade_video(film, target, kind=kind, severity=severity, progress=False)
    return target
