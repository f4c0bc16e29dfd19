"""The image encoder: any convolutional network of timm, its feature map at one stride."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.ops import FrozenBatchNorm2d

# Pixels to encode at a time where no gradient is needed: 16 frames of 224 x 313, or 4 of 420 x 588.
_PIECE = 2**20


class ImageEncoder(nn.Module):
    """Encodes frames one by one.

    Args:
        name: a timm model that offers ``features_only``.
        stage: index of the feature map to take (0 is the finest).
        model_args: further arguments of the timm model, e.g. its channels.
        frozen_norm: batch norms with constants for scale and shift, as DETR and its heirs have them; else these are
            parameters like any other.
        recompute: in training, encode some frames at a time, and anew in the backward pass instead of keeping what the
            layers compute: less memory for more time, with the same gradients.
    """

    def __init__(
        self,
        name: str = "resnet101",
        stage: int = 4,
        model_args: dict[str, Any] | None = None,
        *,
        frozen_norm: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.body = timm.create_model(name, features_only=True, out_indices=(stage,), **(model_args or {}))
        feature_info: Any = self.body.feature_info
        (self.channels,) = feature_info.channels()
        (self.stride,) = feature_info.reduction()
        if frozen_norm:
            self.body = freeze_batch_norm_2d(self.body)
            _fold_norms(self.body)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W), normalised -> (B, T, C, h, w)."""
        images = frames.flatten(0, 1)
        whole = torch.is_grad_enabled() and not self.recompute
        pieces = [images] if whole else images.split(max(1, _PIECE // (images.shape[-2] * images.shape[-1])))
        return torch.cat([self._encode(piece) for piece in pieces]).unflatten(0, frames.shape[:2])

    def _encode(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, h, w)."""
        # Channels last: half the time on a CPU, and what tensor cores want on a GPU.
        images = images.contiguous(memory_format=torch.channels_last)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(lambda pixels: self.body(pixels)[0], images, use_reentrant=False)
        (features,) = self.body(images)
        return features


class NormedConv2d(nn.Conv2d):
    """A convolution that applies the frozen batch norm behind it, by its weights: one pass over the pixels, not three.

    The norm keeps its constants, under its own name in the network.
    """

    norm: tuple[FrozenBatchNorm2d]  # in a tuple, so that it is not registered a second time

    def forward(self, x: Tensor) -> Tensor:
        (norm,) = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight = self.weight * scale.view(-1, 1, 1, 1)
        return self._conv_forward(x, weight, norm.bias - norm.running_mean * scale)


class AppliedNorm2d(FrozenBatchNorm2d):
    """A frozen batch norm that a :class:`NormedConv2d` has applied already."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _fold_norms(body: nn.Module) -> None:
    """Gives each frozen batch norm of a residual network to the convolution ahead of it."""
    for module in body.modules():
        # Elsewhere the order of registration need not be that of computation.
        if module is not body and not isinstance(module, (BasicBlock, Bottleneck, nn.Sequential)):
            continue
        for conv, norm in pairwise(module.children()):
            if type(conv) is nn.Conv2d and type(norm) is FrozenBatchNorm2d and conv.bias is None:
                # They keep their tensors and their names; only what they compute moves from one to the other.
                conv.__class__, norm.__class__ = NormedConv2d, AppliedNorm2d
                vars(conv)["norm"] = (norm,)
