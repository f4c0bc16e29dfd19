"""The video encoder: Video Swin (Liu et al., CVPR 2022) without its final norm and head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d

from stvg_nst.models.cgstvg.windows import WindowBlock


class VideoEncoder(nn.Module):
    """Encodes a clip with shifted three-dimensional windows; the temporal length is kept.

    Torchvision's blocks agree with the original's, down to its way of clipping the relative positions of a window that
    is larger than the grid; here they are computed by fused kernels, which changes rounding only.

    Args:
        patch: side of a patch in pixels.
        patch_frames: frames that a patch embedding sees, an odd number around its own; the original sees one. More let
            a small model perceive motion without having to learn the comparison of frames by attention.
        width: features of the first stage; each further stage doubles them and halves the grid.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window: window size (frames, rows, columns).
    """

    def __init__(
        self,
        patch: int = 4,
        patch_frames: int = 1,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: tuple[int, int, int] = (8, 7, 7),
    ) -> None:
        super().__init__()
        if patch_frames < 1 or patch_frames % 2 == 0:
            raise ValueError(f"patch_frames must be odd and positive, got {patch_frames}")
        swin = SwinTransformer3d(
            patch_size=[1, patch, patch],
            embed_dim=width,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=list(window),
            stochastic_depth_prob=0.2,
            block=WindowBlock,
        )
        self.patch_frames = patch_frames
        self.patch_embed = swin.patch_embed
        if patch_frames > 1:
            # Neighbouring frames come stacked as channels: the same sum as a kernel over time, and far faster on a CPU.
            self.patch_embed.proj = nn.Conv3d(3 * patch_frames, width, (1, patch, patch), stride=(1, patch, patch))
        self.features = swin.features
        self.channels = width * 2 ** (len(depths) - 1)
        self.stride = patch * 2 ** (len(depths) - 1)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W), normalised -> (B, T, C, h, w)."""
        tokens = self.features(self.patch_embed(self._with_neighbours(frames).transpose(1, 2)))
        return tokens.permute(0, 1, 4, 2, 3)

    def _with_neighbours(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W) -> (B, T, 3 * patch_frames, H, W); the first and last frame are repeated beyond the ends."""
        if self.patch_frames == 1:
            return frames
        reach, time = self.patch_frames // 2, torch.arange(frames.shape[1], device=frames.device)
        shifted = [frames[:, (time + offset).clamp(0, len(time) - 1)] for offset in range(-reach, reach + 1)]
        return torch.cat(shifted, dim=2)
