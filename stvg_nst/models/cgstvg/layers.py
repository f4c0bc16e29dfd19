"""Building blocks of CG-STVG: attention with explicit projections, perceptrons, sine codes.

Every projection is a plain ``nn.Linear`` that is called through its forward, and sees the clip on its first axis, so
that any of them can be wrapped by a tuner. (`nn.MultiheadAttention` reads the weights of its sub-layers directly and
would bypass a wrapper in silence.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def attend(query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of projected inputs, heads being contiguous slices of the features.

    Args:
        query: (..., Q, D_qk); key: (..., N, D_qk); value: (..., N, D_v).
        mask: (..., N) bool, True on keys that may be seen; every query needs one.
        dropout: probability on the attention weights (0 outside training).

    Returns:
        (..., Q, D_v).
    """

    leading = query.shape[:-2]

    def split(x: Tensor) -> Tensor:
        # Fused kernels take exactly one batch axis: (batch, heads, tokens, features).
        return x.expand(*leading, *x.shape[-2:]).flatten(0, -3).unflatten(-1, (num_heads, -1)).transpose(1, 2)

    key_mask = None
    if mask is not None:
        key_mask = mask.expand(*leading, mask.shape[-1]).flatten(0, -2)[:, None, None, :]
    queries, keys, values = split(query), split(key), split(value)
    on_cpu = query.device.type == "cpu"
    if on_cpu:
        # PyTorch's kernel for a CPU takes up to 2.7 times as long in bfloat16 as in single precision
        # (make bench-attention).
        single = torch.promote_types(query.dtype, torch.float32)
        queries, keys, values = queries.to(single), keys.to(single), values.to(single)
    with torch.autocast("cpu", enabled=False) if on_cpu else nullcontext():
        mixed = F.scaled_dot_product_attention(queries, keys, values, key_mask, dropout_p=dropout).to(query.dtype)
    return mixed.transpose(1, 2).flatten(2).unflatten(0, leading)


def attend_conditionally(
    content: tuple[Tensor, Tensor],
    position: tuple[Tensor, Tensor],
    value: Tensor,
    *,
    num_heads: int,
    mask: Tensor,
    dropout: float,
) -> Tensor:
    """Each frame's one query attends to that frame's tokens by content and by position (Conditional DETR, 2021).

    The same as attention whose heads hold the features of both side by side. But those are never written down for
    every token: the scores of the two are summed instead, and a head's query scores the features of all heads, those
    of the others times zero, which costs less than to bring keys and values into an order of heads.

    Args:
        content, position: queries (B, T, D) and keys (B, 1 or T, N, D), heads being contiguous slices of the features.
        value: (B, T, N, D).
        mask: (B, 1 or T, N) bool, True on tokens that may be seen; every frame needs one.
        dropout: probability on the attention weights (0 outside training).

    Returns:
        (B, T, D).
    """
    head_width = value.shape[-1] // num_heads
    # (H, D): 1 on a head's own features.
    own = torch.eye(num_heads, device=value.device, dtype=value.dtype).repeat_interleave(head_width, dim=1)
    scale = (2 * head_width) ** -0.5

    def scores(query: Tensor, key: Tensor) -> Tensor:
        """(B, T, H, N); keys that all frames share meet the queries of all frames in one product."""
        heads = (scale * query.unsqueeze(-2) * own).unflatten(1, (key.shape[1], -1)).flatten(2, 3)
        return (heads @ key.transpose(-1, -2)).flatten(1, 2).unflatten(1, (-1, num_heads))

    logits = scores(*content) + scores(*position)
    weights = logits.masked_fill(~mask.unsqueeze(-2), -math.inf).softmax(-1)
    mixed = F.dropout(weights, dropout).to(value.dtype) @ value
    return (mixed * own).sum(-2)


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Tensor:
    """``layer(*inputs)``; with ``recompute``, whose inner results are computed anew in the backward pass, not kept."""
    if recompute and torch.is_grad_enabled():
        return checkpoint(layer, *inputs, use_reentrant=False)
    return layer(*inputs)


class Attention(nn.Module):
    """Multi-head attention with separate query, key, value and output projections."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(..., Q, D) attends to (..., N, D); ``mask`` (..., N) is True on visible keys."""
        mixed = attend(
            self.q_proj(query),
            self.k_proj(key),
            self.v_proj(value),
            num_heads=self.num_heads,
            mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed)


class FrameAttention(Attention):
    """Each frame's one query attends to that frame's memory; every projection sees one token a frame, or its memory."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, T, D) attends to (B, T, M, D); ``mask`` (B, 1 or T, M) is True on visible keys."""
        mixed = attend(
            self.q_proj(query).unsqueeze(-2),
            self.k_proj(key),
            self.v_proj(value),
            num_heads=self.num_heads,
            mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed.squeeze(-2))


class FeedForward(nn.Module):
    """The two-layer perceptron of a transformer layer with its residual sum and norm (post-norm)."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.relu(self.linear1(x)))
        return self.norm(x + self.dropout(self.linear2(hidden)))


class MLP(nn.Module):
    """Linear layers with ReLU between them.

    Dropout, where asked for, follows every layer *including the last*, as in the original: in training, that share of
    the output logits is zeroed.
    """

    def __init__(self, widths: Sequence[int], dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < len(self.layers) - 1:
                x = F.relu(x)
            x = self.dropout(x)
        return x


def interleaved_sine(positions: Tensor, num_features: int, temperature: float = 10000.0) -> Tensor:
    """Sine and cosine, interleaved, of (...) angles at ``num_features`` / 2 frequencies: (..., num_features)."""
    index = torch.arange(num_features, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() / temperature ** (2 * (index // 2) / num_features)
    return torch.stack((angles[..., 0::2].sin(), angles[..., 1::2].cos()), dim=-1).flatten(-2)


def grid_positions(cell_mask: Tensor, width: int) -> Tensor:
    """Two-dimensional sine code of a grid, (B, h, w) bool -> (B, h * w, width): first half rows, second half columns.

    A cell's coordinate is the number of real cells up to it, as a share of all real cells on its column or row.
    """
    real = cell_mask.float()
    halves = []
    for dim in (1, 2):
        count = real.cumsum(dim)
        total = count.select(dim, -1).unsqueeze(dim)
        halves.append(interleaved_sine(count / (total + 1e-6) * 2 * math.pi, width // 2))
    return torch.cat(halves, dim=-1).flatten(1, 2)


def time_positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sine code of the sampled frames 0 .. length - 1, (length, width)."""
    return interleaved_sine(torch.arange(length, device=device), width)


def box_positions(boxes: Tensor, width: int) -> Tensor:
    """Sine code of boxes (..., 4) cxcywh -> (..., 2 * width), coordinates in the order y, x, w, h."""
    ordered = boxes[..., [1, 0, 2, 3]]
    return interleaved_sine(ordered * 2 * math.pi, width // 2).flatten(-2)
