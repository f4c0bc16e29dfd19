"""The video encoder: Video Swin (Liu et al., CVPR 2022) without its final norm and head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.models.video.swin_transformer import SwinTransformer3d


class VideoEncoder(nn.Module):
    """Encodes a clip with shifted three-dimensional windows; the temporal length is kept.

    Torchvision's blocks agree with the original's, down to its way of clipping the relative positions of a window that
    is larger than the grid.

    Args:
        patch: side of a patch in pixels.
        width: features of the first stage; each further stage doubles them and halves the grid.
        depths: blocks of each stage.
        num_heads: attention heads of each stage.
        window: window size (frames, rows, columns).
    """

    def __init__(
        self,
        patch: int = 4,
        width: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window: tuple[int, int, int] = (8, 7, 7),
    ) -> None:
        super().__init__()
        swin = SwinTransformer3d(
            patch_size=[1, patch, patch],
            embed_dim=width,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=list(window),
            stochastic_depth_prob=0.2,
        )
        self.patch_embed = swin.patch_embed
        self.features = swin.features
        self.channels = width * 2 ** (len(depths) - 1)
        self.stride = patch * 2 ** (len(depths) - 1)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, T, 3, H, W), normalised -> (B, T, C, h, w)."""
        tokens = self.features(self.patch_embed(frames.transpose(1, 2)))
        return tokens.permute(0, 1, 4, 2, 3)
