"""D-1.0, the degradation pipeline of the Mixed-Quality benchmark: four kinds as albumentations transforms.

All lengths are fractions of the frame's short side, so that a severity destroys as much of the scene at 128 pixels as
at 1080; ``absolute`` kernels, by name, have the same pixels in every frame instead. Every parameter is drawn once for a
clip; nothing is drawn for a frame, so a frame comes out the same whichever other frames of its clip are passed along.

The text of the paper names the four kinds but its ranges are lost: the tables below are ours, tuned by eye from
"visible beside the original" (1) to "still there for someone who knows where to look" (5).
"""

from __future__ import annotations

import math
import os
from typing import Any

# On import, albumentations asks a package index for a newer release; the pinned one is the last.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from datamodules.degradation.kinds import DEGRADATIONS, check_degradation
from stvg_nst.types import Degradation

# Where kernels are ``absolute`` they have as many pixels as a frame of this short side would get, whatever its own.
ABSOLUTE_SHORT_SIDE = 360

# Severity 1 to 5. Ranges (low, high) are drawn from uniformly, once a clip, and adjoin: severities never overlap.
MOTION_LENGTH = (0.03, 0.06, 0.09, 0.13, 0.18)  # length of the line over the short side
DEFOCUS_SIGMA = ((0.006, 0.009), (0.009, 0.014), (0.014, 0.021), (0.021, 0.030), (0.030, 0.040))  # over the short side
BRIGHTNESS = ((0.75, 0.85), (0.65, 0.75), (0.55, 0.65), (0.47, 0.55), (0.40, 0.47))  # factor on the pixel values ...
GAMMA = (1.2, 1.4, 1.6, 1.8, 2.0)  # ... and exponent on what the factor leaves
REMAINING_ROWS = (72, 50, 36, 26, 19)  # pixels left along the short side
_LARGEST_SCALE = 0.75  # ... but at most this share of them, so that resolution degrades small frames too

# For kernels of 130 elements or more OpenCV takes a Fourier transform, 10 times slower here: 11 x 11 stays below.
_LONGEST_DIRECT_LINE = 9.0
# A Gaussian this wide (pixels) loses nothing visible on a grid half as fine.
_WIDEST_DIRECT_SIGMA = 3.0


class MotionBlur(A.ImageOnlyTransform):
    """Camera shake: averages along a line of random direction."""

    def __init__(self, severity: int, short_side: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.severity, self.short_side = severity, short_side

    def get_params(self) -> dict[str, Any]:
        return {"angle": self.random_generator.uniform(0, math.pi)}

    def apply(self, img: np.ndarray, angle: float, **params: Any) -> np.ndarray:
        return blur_along_line(img, MOTION_LENGTH[self.severity - 1] * self.short_side, angle)


class Defocus(A.ImageOnlyTransform):
    """Loss of focus: a Gaussian of random standard deviation."""

    def __init__(self, severity: int, short_side: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.severity, self.short_side = severity, short_side

    def get_params(self) -> dict[str, Any]:
        return {"sigma": self.random_generator.uniform(*DEFOCUS_SIGMA[self.severity - 1])}

    def apply(self, img: np.ndarray, sigma: float, **params: Any) -> np.ndarray:
        return blur_gaussian(img, sigma * self.short_side)


class LowLight(A.ImageOnlyTransform):
    """Underexposure: a random linear reduction of brightness, then a gamma curve."""

    def __init__(self, severity: int, short_side: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.severity, self.short_side = severity, short_side

    def get_params(self) -> dict[str, Any]:
        brightness = self.random_generator.uniform(*BRIGHTNESS[self.severity - 1])
        values = np.arange(256) / 255
        curve = np.rint(255 * (brightness * values) ** GAMMA[self.severity - 1])
        return {"curve": curve.astype(np.uint8)}

    def apply(self, img: np.ndarray, curve: np.ndarray, **params: Any) -> np.ndarray:
        return cv2.LUT(img, curve)


class LowResolution(A.ImageOnlyTransform):
    """Loss of detail: averages over areas down to few pixels, then bilinear interpolation up to the same size."""

    def __init__(self, severity: int, short_side: int, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.severity, self.short_side = severity, short_side

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        scale = min(REMAINING_ROWS[self.severity - 1] / self.short_side, _LARGEST_SCALE)
        return down_and_up(img, scale)


_TRANSFORMS: dict[str, type[MotionBlur | Defocus | LowLight | LowResolution]] = {
    "motion_blur": MotionBlur,
    "defocus": Defocus,
    "low_light": LowLight,
    "resolution": LowResolution,
}


def degrade(frames: np.ndarray, degradation: Degradation) -> np.ndarray:
    """Degrades a clip: a pure function of its arguments.

    Args:
        frames: uint8 (T, H, W, 3), at native resolution. In loader processes, call ``cv2.setNumThreads(0)`` first:
            the processes are parallel already.

    Returns:
        uint8 (T, H, W, 3), a new array.

    Raises:
        ValueError: the kind is none of D-1.0, the severity is unknown, or ``frames`` is not such an array.

    Source: the paper, section IV-A.
    """
    check_degradation(degradation.kind, degradation.severity, kinds=DEGRADATIONS)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or frames.size == 0:
        raise ValueError(f"frames must be uint8 (T, H, W, 3) and not empty, got {frames.dtype} {frames.shape}")
    absolute = degradation.kernels == "absolute"
    short_side = ABSOLUTE_SHORT_SIDE if absolute else min(frames.shape[1:3])
    transform = _TRANSFORMS[degradation.kind](degradation.severity, short_side)
    # The composition seeds the transform, and is made anew: a kept one would carry its state from call to call. It is
    # not called, because what it does to every frame around `apply` takes longer than most of the transforms.
    A.Compose([transform], seed=degradation.seed)
    params, degraded = transform.get_params(), np.empty_like(frames)
    for frame, target in zip(frames, degraded, strict=True):
        target[:] = transform.apply(frame, **params)
    return degraded


def line_kernel(length: float, angle: float) -> np.ndarray:
    """An antialiased line through the centre: float32 (K, K), K odd, sum 1.

    Args:
        length: pixels, fractions included.
        angle: radians.
    """
    radius = math.ceil(length / 2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = np.abs(x * math.cos(angle) + y * math.sin(angle))
    across = np.abs(y * math.cos(angle) - x * math.sin(angle))
    weights = np.clip(length / 2 + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    return (weights / weights.sum()).astype(np.float32)


def blur_along_line(frame: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Averages uint8 (H, W, 3) along a line of ``length`` pixels at ``angle`` radians.

    A line is two halves of itself side by side: a long one is a short one, doubled a few times.
    """
    doublings = max(0, math.ceil(math.log2(length / _LONGEST_DIRECT_LINE)))
    piece = length / 2**doublings
    blurred = cv2.filter2D(frame, -1, line_kernel(piece, angle))
    if not doublings:
        return blurred
    # Four channels are shifted twice as fast as three, to the same values.
    blurred = cv2.cvtColor(blurred, cv2.COLOR_RGB2RGBA)
    for _ in range(doublings):
        dx, dy = piece / 2 * math.cos(angle), piece / 2 * math.sin(angle)
        blurred = cv2.addWeighted(_shift(blurred, dx, dy), 0.5, _shift(blurred, -dx, -dy), 0.5, 0)
        piece *= 2
    return cv2.cvtColor(blurred, cv2.COLOR_RGBA2RGB)


def _shift(frame: np.ndarray, dx: float, dy: float) -> np.ndarray:
    height, width = frame.shape[:2]
    matrix = np.array([[1, 0, dx], [0, 1, dy]])
    return cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def blur_gaussian(frame: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of uint8 (H, W, 3) by ``sigma`` pixels; wide ones work on a coarser grid.

    The averaging down to that grid and the interpolation up blur as well, by variances of (f^2 - 1) / 12 and f^2 / 6
    at a factor f: the Gaussian between them does the rest.
    """
    if sigma <= _WIDEST_DIRECT_SIGMA:
        return cv2.GaussianBlur(frame, (0, 0), sigma)
    factor = 2 ** math.floor(math.log2(sigma / _WIDEST_DIRECT_SIGMA) + 1)
    rest = math.sqrt(sigma**2 - (factor**2 - 1) / 12 - factor**2 / 6) / factor
    height, width = frame.shape[:2]
    small = cv2.resize(frame, (math.ceil(width / factor), math.ceil(height / factor)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), rest), (width, height), interpolation=cv2.INTER_LINEAR)


def down_and_up(frame: np.ndarray, scale: float) -> np.ndarray:
    """Shrinks uint8 (H, W, 3) by averaging to ``scale`` of its size and interpolates bilinearly back."""
    height, width = frame.shape[:2]
    small_size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(frame, small_size, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
