"""The image encoder: any convolutional network of timm, its feature map at one stride."""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from torch import Tensor, nn


class ImageEncoder(nn.Module):
    """Encodes frames one by one.

    Args:
        name: a timm model that offers ``features_only``.
        stage: index of the feature map to take (0 is the finest).
        model_args: further arguments of the timm model, e.g. its channels.
        frozen_norm: batch norms with constants for scale and shift, as DETR and its heirs have them; else these are
            parameters like any other.
    """

    def __init__(
        self,
        name: str = "resnet101",
        stage: int = 4,
        model_args: dict[str, Any] | None = None,
        *,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, out_indices=(stage,), **(model_args or {}))
        feature_info: Any = self.body.feature_info
        (self.channels,) = feature_info.channels()
        (self.stride,) = feature_info.reduction()
        if frozen_norm:
            self.body = freeze_batch_norm_2d(self.body)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W), normalised -> (B, T, C, h, w)."""
        # Channels last: half the time on a CPU, and what tensor cores want on a GPU.
        (features,) = self.body(frames.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return features.unflatten(0, frames.shape[:2])
