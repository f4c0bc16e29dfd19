"""A decoder of one query a frame: over time, then into the frame's own memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stvg_nst.models.blocks.layers import Attention, FeedForward, FrameAttention, run_layer


@dataclass(frozen=True)
class FrameMemory:
    """What the queries of a clip attend to.

    Args:
        tokens: (B, T, M, D), the encoder's output.
        positions: (B, 1, M, D), what is added to a token where it is a key.
        token_mask: (B, 1, M) bool, True on real tokens.
        frame_mask: (B, T) bool, True on real frames.
    """

    tokens: Tensor
    positions: Tensor
    token_mask: Tensor
    frame_mask: Tensor


class DecoderLayer(nn.Module):
    """Queries attend to each other over time, then each to its own frame's memory.

    Args:
        placed: add a query's position where it attends to its memory, too, as TubeDETR does, and not over time only.
    """

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float, *, placed: bool) -> None:
        super().__init__()
        self.placed = placed
        self.self_attn = Attention(width, num_heads, dropout)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attn = FrameAttention(width, num_heads, dropout)
        self.cross_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.ffn = FeedForward(width, hidden, dropout)

    def forward(
        self, x: Tensor, position: Tensor, memory: FrameMemory, keep_attention: bool
    ) -> tuple[Tensor, Tensor | None]:
        """States (B, T, D) and positions, (T, D) or (B, T, D) -> states, and attention (B, T, T) over time if asked."""
        placed, attention = x + position, None
        if keep_attention:
            mixed, attention = self.self_attn.with_weights(placed, placed, x, memory.frame_mask)
        else:
            mixed = self.self_attn(placed, placed, x, memory.frame_mask)
        x = self.self_norm(x + self.dropout(mixed))
        keys = memory.tokens + memory.positions
        query = x + position if self.placed else x
        x = self.cross_norm(x + self.dropout(self.cross_attn(query, keys, memory.tokens, memory.token_mask)))
        return self.ffn(x), attention


class Decoded(NamedTuple):
    """The normed state after each layer, (S, B, T, D), and the attention over time, (S, B, T, T), if it is kept."""

    states: Tensor
    time_attention: Tensor | None


class FrameDecoder(nn.Module):
    """A stack of such layers with one norm, whose output is not fed back.

    Args:
        placed: as of :class:`DecoderLayer`.
        keep_attention: also say the attention over time: a mean over heads, after dropout.
        recompute: as in :class:`stvg_nst.models.blocks.encoder.CrossModalEncoder`.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        *,
        placed: bool = False,
        keep_attention: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.keep_attention = keep_attention
        self.recompute = recompute
        self.layers = nn.ModuleList(
            DecoderLayer(width, num_heads, hidden, dropout, placed=placed) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, memory: FrameMemory, position: Tensor) -> Decoded:
        """Queries at ``position``, (T, D) or (B, T, D), whose states start at zero."""
        x = memory.tokens.new_zeros(memory.tokens.shape[:2] + memory.tokens.shape[3:])
        states, attentions = [], []
        for layer in self.layers:
            x, attention = run_layer(layer, x, position, memory, self.keep_attention, recompute=self.recompute)
            states.append(self.norm(x))
            attentions.append(attention)
        return Decoded(torch.stack(states), torch.stack(attentions) if self.keep_attention else None)
