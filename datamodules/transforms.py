"""From native pixels to what the network takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

# Mean and standard deviation of ImageNet, in which the image encoders of the field are trained.
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


# Frames that are worked on at a time: their floats stay in the processor's cache, and a clip's are never in memory
# at native size.
_CHUNK = 2


def normalise(frames: np.ndarray) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> float32 (T, 3, H, W), zero mean and unit variance over ImageNet."""
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    return pixels.div_(255).sub_(IMAGENET_MEAN).div_(IMAGENET_STD)


@dataclass(frozen=True, slots=True)
class Resize:
    """Brings frames to one height, bilinearly; frames wider than 7 : 5 are squeezed to that.

    Args:
        height: in pixels.
        antialias: average over the pixels that fall away.

    Source: CG-STVG, whose published models were trained with antialiasing on HC-STVG and without on VidSTG.
    """

    height: int
    antialias: bool

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that frames of a size are brought to."""
        return self.height, max(1, min(int(self.height * width / height), int(self.height * 1.4)))

    def __call__(self, frames: Tensor) -> Tensor:
        """float (T, 3, H, W) -> (T, 3, height, W')."""
        height, width = frames.shape[-2:]
        size = self.size(height, width)
        if size == (height, width):
            return frames
        if self.antialias:
            frames = frames.contiguous()  # the antialiasing kernel takes half as long again where colours come last
        return interpolate(frames, size, mode="bilinear", antialias=self.antialias)


def to_network(frames: np.ndarray, resize: Resize | None) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> normalised float32 (T, 3, H', W'), resized unless ``resize`` is ``None``."""
    if resize is None:
        return normalise(frames)
    height, width = resize.size(*frames.shape[1:3])
    pixels = torch.empty(len(frames), 3, height, width)
    for start in range(0, len(frames), _CHUNK):
        pixels[start : start + _CHUNK] = resize(normalise(frames[start : start + _CHUNK]))
    return pixels
