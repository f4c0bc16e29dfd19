"""Torchvision's Video Swin block with the same parameters, computed by fused attention and piece by piece.

Torchvision writes down the attention weights of all windows at once: 2.3 GB in the first block of 32 frames at
420 x 588, which is most of what the video encoder costs. Here a kernel keeps them to itself.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

# Tokens in hand at a time: on a CPU few enough for its caches, elsewhere enough to fill the device.
_PIECE = {"cpu": 2**13}
_LARGE_PIECE = 2**17
_MASKED = -100.0  # what the original adds to the logits of tokens that only the cyclic shift has made neighbours


class WindowAttention(ShiftedWindowAttention3d):
    """Self-attention in shifted windows, with torchvision's parameters and results."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same shape."""
        sizes = x.shape[1:4]
        window = [min(own, size) for own, size in zip(self.window_size, sizes, strict=True)]
        shift = [
            0 if size <= own else step for own, step, size in zip(self.window_size, self.shift_size, sizes, strict=True)
        ]
        over = [-size % own for own, size in zip(window, sizes, strict=True)]
        padded = F.pad(x, (0, 0, 0, over[2], 0, over[1], 0, over[0])) if any(over) else x
        shifted = padded.roll([-step for step in shift], (1, 2, 3)) if any(shift) else padded
        mixed = torch.empty_like(shifted)
        self._attend(_windows(shifted, window), _windows(mixed, window), window, shift)
        mixed = mixed.roll(shift, (1, 2, 3)) if any(shift) else mixed
        return mixed[:, : sizes[0], : sizes[1], : sizes[2]]

    def _attend(self, source: Tensor, target: Tensor, window: list[int], shift: list[int]) -> None:
        """Fills ``target`` from ``source``, both (B, windows along T, H, W, tokens of a window along T, H, W, C)."""
        bias = self.get_relative_position_bias(window)
        grid = source.shape[1:4]
        for place in product(*(_first_and_last(count, step) for count, step in zip(grid, shift, strict=True))):
            crossing = [step if part.stop is None else 0 for step, part in zip(shift, place, strict=True)]
            logits = bias + _crossing_mask(window, crossing, bias) if any(crossing) else bias
            for piece in _pieces(source, place):
                target[piece] = self._attend_within(source[piece], logits)

    def _attend_within(self, windows: Tensor, bias: Tensor) -> Tensor:
        """(B, n, m, k, *window, C), each window on its own; ``bias`` (1, heads, N, N)."""
        tokens = windows.reshape(-1, bias.shape[-1], windows.shape[-1])
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mask = bias.to(query.dtype).expand(len(tokens), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(query, key, value, mask)
        return self.proj(mixed.transpose(1, 2).flatten(2)).view(windows.shape)


class WindowBlock(SwinTransformerBlock):
    """Attention and perceptron, pre-norm; where no gradient is needed, the perceptron sees some tokens at a time."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # Torchvision's network names its own attention, whatever the block.
        super().__init__(*arguments, **{**options, "attn_layer": WindowAttention})

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) -> the same shape."""
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        if torch.is_grad_enabled():
            return x + self.stochastic_depth(self.mlp(self.norm2(x)))
        for piece in x.view(-1, x.shape[-1]).split(_tokens_at_once(x)):
            piece += self.mlp(self.norm2(piece))
        return x


def _windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """A view of (B, T, H, W, C) by windows: (B, windows along T, H, W, tokens along T, H, W, C)."""
    parted = x.unflatten(3, (-1, window[2])).unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return parted.permute(0, 1, 3, 5, 2, 4, 6, 7)


def _first_and_last(count: int, step: int) -> tuple[slice, ...]:
    """Windows along an axis, apart where the cyclic shift has joined both ends of the clip in the last one."""
    if not step:
        return (slice(0, count),)
    return (slice(0, count - 1), slice(count - 1, None))


def _pieces(source: Tensor, place: Sequence[slice]) -> Iterator[tuple[slice, ...]]:
    """Indices of the windows at a place, some at a time: one or more rows, or one or more planes of them."""
    planes, rows, columns = (range(count)[part] for count, part in zip(source.shape[1:4], place, strict=True))
    tokens_of_a_row = len(source) * len(columns) * math.prod(source.shape[4:7])
    high = max(1, _tokens_at_once(source) // tokens_of_a_row)
    deep = max(1, high // len(rows))
    for first in planes[::deep]:
        for top in rows[::high]:
            last, bottom = min(first + deep, planes.stop), min(top + high, rows.stop)
            yield slice(None), slice(first, last), slice(top, bottom), place[2]


def _crossing_mask(window: Sequence[int], crossing: Sequence[int], like: Tensor) -> Tensor:
    """What keeps both ends of the clip apart in a window that holds ``crossing`` cells of the other end: (N, N)."""
    sides = torch.zeros(list(window), dtype=torch.int64, device=like.device)
    for axis, (size, step) in enumerate(zip(window, crossing, strict=True)):
        if step:
            sides.narrow(axis, size - step, step).add_(2**axis)
    sides = sides.flatten()
    return like.new_zeros(len(sides), len(sides)).masked_fill_(sides[:, None] != sides, _MASKED)


def _tokens_at_once(x: Tensor) -> int:
    """How many tokens to work on before going on to the next; all, where the backward pass keeps everything anyway."""
    return sys.maxsize if torch.is_grad_enabled() else _PIECE.get(x.device.type, _LARGE_PIECE)
