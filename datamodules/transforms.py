"""From native pixels to what the network takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Mean and standard deviation of ImageNet, in which the image encoders of the field are trained.
IMAGENET_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1)
IMAGENET_STD = torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)


def normalise(frames: np.ndarray) -> Tensor:
    """uint8 RGB (T, H, W, 3) -> float32 (T, 3, H, W), zero mean and unit variance over ImageNet."""
    return (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255 - IMAGENET_MEAN) / IMAGENET_STD
