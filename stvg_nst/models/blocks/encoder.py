"""The cross-modal encoder: image, text and motion tokens of one frame attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from stvg_nst.models.base import TokenLayer
from stvg_nst.models.blocks.layers import Attention, FeedForward, run_layer


class EncoderLayer(TokenLayer):
    """Self-attention among the tokens of a frame and a feed-forward layer, both post-norm."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.self_attn = Attention(width, num_heads, dropout)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.ffn = FeedForward(width, hidden, dropout)

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Tokens (B, T, M, D), positions (B, 1, M, D), mask (B, 1 or T, M) True on real tokens."""
        placed = tokens + positions
        tokens = self.norm(tokens + self.dropout(self.self_attn(placed, placed, tokens, mask)))
        return self.ffn(tokens)


class CrossModalEncoder(nn.Module):
    """A stack of encoder layers; frames do not see each other here.

    Args:
        norm: norm what leaves the last layer, which is normed already.
        recompute: keep only the tokens between the layers for the backward pass, and compute the rest anew there.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        *,
        norm: bool = True,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.layers = nn.ModuleList(EncoderLayer(width, num_heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """As each layer's own."""
        for layer in self.layers:
            tokens = run_layer(layer, tokens, positions, mask, recompute=self.recompute)
        return self.norm(tokens)
