"""D-1.1: three kinds of damage that no training sees, for tests by kind and severity beside D-1.0.

They are done to a clip from its first frame to its last, for a codec carries what it has lost from frame to frame. So a
frame comes out the same however many frames of its clip are sampled.

The tables are tuned by eye as those of D-1.0 are: from "visible beside the original" (1) to "still there for someone
who knows where to look" (5).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from datamodules.degradation.kinds import DEGRADATIONS, UNSEEN, check_degradation
from datamodules.degradation.severities import ABSOLUTE_SHORT_SIDE, degrade
from stvg_nst.seeding import derive_seed
from stvg_nst.types import Degradation

# Severity 1 to 5.
QUANTISER = (36, 40, 44, 47, 50)  # of H.264, the same for every frame; 51 is its last
NOISE = (10, 18, 28, 40, 56)  # standard deviation, grey levels
GRAIN_ROWS = 128  # a grain of the noise is a square pixel of a frame with so many rows along its short side
DAMAGED_SHARE = 0.5  # of the frames of a clip that is damaged in a part

# One thread, and no choice that depends on the processor: the same bytes wherever the same x264 runs.
_X264 = {"preset": "veryfast", "x264-params": "cpu-independent=1"}


def degrade_clip(
    frames: Iterable[np.ndarray], num_frames: int, degradation: Degradation, wanted: Collection[int]
) -> Iterator[np.ndarray]:
    """Damages a clip in one of the kinds that D-1.1 adds: a pure function of its arguments.

    Args:
        frames: uint8 (H, W, 3) each, native: all of the clip, in order.
        num_frames: how many that are.
        degradation: of a kind in ``UNSEEN``.
        wanted: indices of frames in the clip.

    Yields:
        The wanted frames, damaged, in order: uint8 (H, W, 3).

    Raises:
        ValueError: the kind is none of D-1.1's, or the severity is unknown.
    """
    check_degradation(degradation.kind, degradation.severity, kinds=UNSEEN)
    if degradation.kind == "compression":
        coded = compress(frames, QUANTISER[degradation.severity - 1])
        yield from (frame for index, frame in enumerate(coded) if index in wanted)
        return
    damaged = range(num_frames) if degradation.kind == "noise" else damaged_part(num_frames, degradation.seed)
    for index, frame in enumerate(frames):
        if index not in wanted:
            continue
        if index not in damaged:
            yield frame
        elif degradation.kind == "noise":
            yield add_noise(frame, degradation, index)
        else:
            yield degrade(frame[None], part_degradation(degradation))[0]


def compress(frames: Iterable[np.ndarray], quantiser: int) -> Iterator[np.ndarray]:
    """What H.264 at a fixed quantiser leaves of frames, uint8 (H, W, 3), that follow one another.

    Its blocks have a fixed number of pixels, so that one quantiser destroys less of a larger frame.

    Source: x264 by PyAV; colours by BT.601 at half the resolution, as in most films.
    """
    coder: _Coder | None = None
    for frame in frames:
        coder = coder or _Coder(frame.shape[:2], quantiser)
        yield from coder.code(frame)
    if coder is not None:
        yield from coder.finish()


class _Coder:
    """An encoder and a decoder behind it, both of one thread; frames leave it late, and in order."""

    def __init__(self, size: tuple[int, int], quantiser: int) -> None:
        self._height, self._width = size
        self._index = 0
        self._encoder: Any = av.CodecContext.create("libx264", "w")
        # H.264 halves the resolution of colours: frames of odd sides get a row or a column more.
        self._encoder.height, self._encoder.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._encoder.pix_fmt, self._encoder.time_base = "yuv420p", Fraction(1, 25)
        self._encoder.options, self._encoder.thread_count = {**_X264, "qp": str(quantiser)}, 1
        self._decoder: Any = av.CodecContext.create("h264", "r")
        self._decoder.thread_count = 1

    def code(self, frame: np.ndarray) -> Iterator[np.ndarray]:
        bottom, right = self._height % 2, self._width % 2
        even = cv2.copyMakeBorder(frame, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
        # OpenCV's conversion is in integers, and FFmpeg's depends on the processor.
        planes: Any = cv2.cvtColor(even, cv2.COLOR_RGB2YUV_I420)
        shown = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        shown.pts, self._index = self._index, self._index + 1
        yield from self._decoded(self._encoder.encode(shown))

    def finish(self) -> Iterator[np.ndarray]:
        yield from self._decoded([*self._encoder.encode(None), None])

    def _decoded(self, packets: Iterable[Any]) -> Iterator[np.ndarray]:
        for packet in packets:
            for frame in self._decoder.decode(packet):
                pixels = cv2.cvtColor(frame.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2RGB_I420)
                yield pixels[: self._height, : self._width]


def add_noise(frame: np.ndarray, degradation: Degradation, index: int) -> np.ndarray:
    """Adds the Gaussian noise of a sensor to uint8 (H, W, 3), drawn for each grain, colour and frame by itself.

    Args:
        index: of the frame in its clip.
    """
    height, width = frame.shape[:2]
    short_side = ABSOLUTE_SHORT_SIDE if degradation.kernels == "absolute" else min(height, width)
    grain = max(1, round(short_side / GRAIN_ROWS))
    generator = np.random.default_rng(derive_seed("noise", degradation.seed, index))
    grains = generator.standard_normal((-(-height // grain), -(-width // grain), 3), dtype=np.float32)
    noise = grains.repeat(grain, axis=0).repeat(grain, axis=1)[:height, :width]
    noisy = np.rint(frame + np.float32(NOISE[degradation.severity - 1]) * noise)
    return noisy.clip(0, 255).astype(np.uint8)


def damaged_part(num_frames: int, seed: int) -> range:
    """The frames of a clip that is damaged in a part: one after another, from a drawn one on."""
    length = max(1, round(DAMAGED_SHARE * num_frames))
    start = derive_seed("start", seed) % (num_frames - length + 1)
    return range(start, start + length)


def part_degradation(degradation: Degradation) -> Degradation:
    """What is done to the damaged frames: a kind of D-1.0, drawn once for the clip, at the same severity."""
    kind = DEGRADATIONS[derive_seed("kind", degradation.seed) % len(DEGRADATIONS)]
    return replace(degradation, kind=kind)
