"""From native pixels to what the network takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Mean and standard deviation of ImageNet, in which the image encoders of the field are trained.
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


# Native frames that are made floats at a time: on a CPU those that stay in its cache, elsewhere so many pixels, 350 MB.
_FRAMES_AT_ONCE_ON_A_CPU = 2
_PIXELS_AT_ONCE = 32 * 1280 * 720


def normalise(frames: np.ndarray) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> float32 (T, 3, H, W), zero mean and unit variance over ImageNet."""
    return _normalise(levels_of(frames))


def levels_of(frames: np.ndarray) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> the same memory as (T, 3, H, W)."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


@dataclass(frozen=True, slots=True)
class Resize:
    """Brings frames to one height, bilinearly; frames wider than 7 : 5 are squeezed to that.

    Args:
        resolution: the height, in pixels.
        antialias: average over the pixels that fall away.

    Source: CG-STVG, whose published models were trained with antialiasing on HC-STVG and without on VidSTG.
    """

    resolution: int
    antialias: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that frames of a size are brought to."""
        return self.resolution, max(1, min(int(self.resolution * width / height), int(self.resolution * 1.4)))

    def __call__(self, frames: Tensor) -> Tensor:
        """float (T, 3, H, W) -> (T, 3, resolution, W')."""
        height, width = frames.shape[-2:]
        size = self.size(height, width)
        return interpolate(frames, size, mode="bilinear", antialias=self.antialias)


@dataclass(frozen=True, slots=True)
class ShortSide:
    """Brings the short side of frames to one length, and keeps their shape; the long side of narrow ones has a limit.

    Grey levels are whole numbers before and after, and nothing is averaged over the pixels that fall away.

    Args:
        resolution: the short side, in pixels.

    Source: TubeDETR (Yang et al., CVPR 2022).
    """

    resolution: int

    @property
    def longest(self) -> int:
        """The most pixels of a long side: 1333 for 800, the proportion of DETR."""
        return round(self.resolution * 1333 / 800)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that frames of a size are brought to."""
        return scaled_size(height, width, self.resolution, self.longest)

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) -> (T, H', W', 3)."""
        return scale(frames, self.size(*frames.shape[1:3]))


def scaled_size(height: int, width: int, short_side: int, longest: int | None = None) -> tuple[int, int]:
    """(H, W) of a frame whose short side is brought to a length, or to less where its long side would be ``longest``.

    Source: TubeDETR's sizes, its rounding included.
    """
    short, long = min(height, width), max(height, width)
    if longest is not None and long / short * short_side > longest:
        short_side = max(1, round(longest * short / long))
    if short_side == short:
        return height, width
    other = int(short_side * long / short)
    return (short_side, other) if height < width else (other, short_side)


def scale(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 (T, H, W, 3) -> (T, H', W', 3), bilinearly, with OpenCV's rounding."""
    if size == frames.shape[1:3]:
        return frames
    return np.stack([cv2.resize(frame, size[::-1], interpolation=cv2.INTER_LINEAR) for frame in frames])


Resizing = Resize | ShortSide
"""How a data set's frames are brought to the network's size."""


class PixelResize(Protocol):
    """Makes uint8 frames of others, as :class:`ShortSide` does."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that frames of a size are brought to."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) -> (T, H', W', 3)."""


def to_network(frames: np.ndarray, resize: Resize | PixelResize | None) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> normalised float32 (T, 3, H', W'), resized unless ``resize`` is ``None``."""
    levels, left = to_device(frames, resize), resize if isinstance(resize, Resize) else None
    size = tuple(levels.shape[-2:]) if left is None else left.size(*levels.shape[-2:])
    finished = torch.empty(len(levels), 3, *size)
    finish(levels, finished, left)
    return finished


def to_device(frames: np.ndarray, resize: Resize | PixelResize | None) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> uint8 (T, 3, H', W'), for :func:`finish`, which a :class:`Resize` is left to."""
    return levels_of(frames if resize is None or isinstance(resize, Resize) else resize(frames))


def finish(levels: Tensor, target: Tensor, resize: Resize | None) -> None:
    """Resizes and normalises frames on the device where they are.

    Args:
        levels: (T, 3, H, W) uint8.
        target: (T, 3, H', W') float32, to be filled; of the size that ``resize`` brings them to.
        resize: ``None`` for frames that have the network's size.
    """
    at_once = max(1, _PIXELS_AT_ONCE // (levels.shape[-2] * levels.shape[-1]))
    if levels.device.type == "cpu":
        at_once = _FRAMES_AT_ONCE_ON_A_CPU
    for source, part in zip(levels.split(at_once), target.split(at_once), strict=True):
        if source.shape == part.shape:
            part.copy_(_normalise(source))
        else:
            assert resize is not None
            _resize_and_normalise(source, part, resize)


def _normalise(levels: Tensor) -> Tensor:
    mean, std = IMAGENET_MEAN.to(levels.device), IMAGENET_STD.to(levels.device)
    return levels.float().div_(255).sub_(mean).div_(std)


def _resize_and_normalise(levels: Tensor, target: Tensor, resize: Resize) -> None:
    """In this order, and with both steps of the second in one factor: on a CPU it takes 0.6 of the time.

    The interpolation's weights sum to 1, so that it gives the same of normalised pixels, to 2e-6.
    """
    mean, std = IMAGENET_MEAN.to(levels.device), IMAGENET_STD.to(levels.device)
    # The antialiasing kernel takes half as long again where colours come last.
    floats = levels.to(torch.float32, memory_format=torch.contiguous_format)
    torch.mul(resize(floats), 1 / (255 * std), out=target).sub_(mean / std)
