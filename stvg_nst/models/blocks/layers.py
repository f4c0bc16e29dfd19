"""Layers of grounders: attention with explicit projections, and perceptrons.

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


def attend_with_weights(
    query: Tensor, key: Tensor, value: Tensor, *, num_heads: int, mask: Tensor, dropout: float
) -> tuple[Tensor, Tensor]:
    """As :func:`attend`, and the weights besides, which fused kernels keep to themselves.

    Args:
        query: (B, Q, D_qk); key: (B, N, D_qk); value: (B, N, D_v).
        mask: (B, N) bool, True on keys that may be seen; every query needs one.
        dropout: probability on the attention weights (0 outside training).

    Returns:
        (B, Q, D_v), and the weights (B, Q, N), a mean over heads, as they are after dropout.
    """
    query, key, value = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    weights = F.dropout(logits.masked_fill(~mask[:, None, None], -math.inf).softmax(-1), dropout)
    mixed = weights.to(value.dtype) @ value
    return mixed.transpose(1, 2).flatten(2), weights.mean(1)


def run_layer(layer: nn.Module, *inputs: Any, recompute: bool) -> Any:
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

    def with_weights(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of (B, Q, D), (B, N, D) and a mask (B, N): the answer, and the weights of :func:`attend_with_weights`."""
        mixed, weights = attend_with_weights(
            self.q_proj(query),
            self.k_proj(key),
            self.v_proj(value),
            num_heads=self.num_heads,
            mask=mask,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(mixed), weights


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
