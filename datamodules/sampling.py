"""Which frames of a clip the network sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Segment(Protocol):
    """A part of a video: what is asked of a record, and of a window of anyone's film, to choose frames."""

    @property
    def segment(self) -> tuple[int, int]:
        """Half-open, native frames."""

    @property
    def fps(self) -> float:
        """Native frames per second."""


FrameChoice = Callable[[Segment], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class EvenFrames:
    """So many frames of a segment, spread evenly.

    Args:
        num_frames: frames wanted; a shorter segment gives all of its own.
    """

    num_frames: int

    def __call__(self, shown: Segment) -> tuple[int, ...]:
        start, stop = shown.segment
        return tuple(start + index for index in sample_frames(stop - start, self.num_frames))


@dataclass(frozen=True, slots=True)
class FramesAtRate:
    """So many frames of a segment a second.

    Args:
        rate: frames per second wanted.
    """

    rate: float

    def __call__(self, shown: Segment) -> tuple[int, ...]:
        start, stop = shown.segment
        return tuple(start + index for index in sample_at_rate(stop - start, fps=shown.fps, rate=self.rate))


@dataclass(frozen=True, slots=True)
class FramesByClock:
    """So many frames a second by the clock of the video, spread out where that would be too many.

    Args:
        rate: frames per second wanted.
        at_most: frames of a clip.

    Source: TubeDETR (Yang et al., CVPR 2022), 5 frames a second up to 200.
    """

    rate: float = 5.0
    at_most: int = 200

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.at_most < 1:
            raise ValueError(f"expected a positive rate and at least one frame, got {self.rate} and {self.at_most}")

    def __call__(self, shown: Segment) -> tuple[int, ...]:
        return sample_by_clock(shown.segment, fps=shown.fps, rate=self.rate, at_most=self.at_most)


def sample_frames(num_frames: int, num_samples: int) -> tuple[int, ...]:
    """Frame indices spread evenly over a whole clip, its first and last frame included.

    Args:
        num_frames: length of the clip.
        num_samples: indices wanted; a shorter clip gives all of its own. One sample is the first frame.

    Returns:
        ``min(num_samples, num_frames)`` indices in [0, num_frames), strictly increasing.

    Raises:
        ValueError: there are no frames, or no samples are wanted.

    Source: the truncated linspace of TubeDETR and CG-STVG, its floating-point rounding included.
    """
    if num_frames < 1 or num_samples < 1:
        raise ValueError(f"expected at least one frame and one sample, got {num_frames} frames, {num_samples} samples")
    positions = np.linspace(0, num_frames - 1, min(num_frames, num_samples))
    return tuple(int(position) for position in positions)


def sample_at_rate(num_frames: int, *, fps: float, rate: float) -> tuple[int, ...]:
    """Frame indices at a fixed rate in time, the first and the last frame included.

    A frame is taken when ``floor(frame * rate / fps)`` exceeds that of the frame taken before it.

    Args:
        num_frames: length of the clip.
        fps: its frames per second.
        rate: frames per second wanted; all frames where it is not below ``fps``.

    Returns:
        Indices in [0, num_frames), strictly increasing.

    Raises:
        ValueError: there are no frames, or a rate is not positive.

    Source: CG-STVG's protocol for HC-STVG, its floating-point rounding included.
    """
    if num_frames < 1 or not (fps > 0 and rate > 0):
        raise ValueError(f"expected at least one frame and positive rates, got {num_frames} frames, {fps} and {rate}")
    ticks = (np.arange(num_frames) * min(rate / fps, 1.0)).astype(np.int64)
    _, taken = np.unique(ticks, return_index=True)
    return tuple(sorted({*taken.tolist(), num_frames - 1}))


def sample_by_clock(segment: tuple[int, int], *, fps: float, rate: float, at_most: int) -> tuple[int, ...]:
    """The frames of a segment with which a tick of the video's clock begins, and its first frame.

    Unlike :func:`sample_at_rate` it counts ticks from the beginning of the video, not of the segment, and adds no last
    frame.

    Args:
        segment: half-open, native frames.
        fps: frames per second of the video.
        rate: ticks per second; all frames where it is not below ``fps``.
        at_most: frames; of more, as many are taken, spread evenly.

    Returns:
        Native indices, strictly increasing.

    Raises:
        ValueError: the segment is empty, or a rate is not positive.

    Source: TubeDETR's sampling, its floating-point rounding included.
    """
    start, stop = segment
    if not 0 <= start < stop or not (fps > 0 and rate > 0):
        raise ValueError(f"expected at least one frame and positive rates, got frames {segment}, {fps} and {rate}")
    ticks = (np.arange(start, stop) * min(rate / fps, 1.0)).astype(np.int64)
    _, taken = np.unique(ticks, return_index=True)
    if len(taken) > at_most:
        taken = taken[np.arange(at_most) * len(taken) // at_most]
    return tuple((start + taken).tolist())
