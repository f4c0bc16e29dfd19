"""Attention by content and position, and the sine code of a box, as CG-STVG has them from Conditional DETR."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stvg_nst.models.blocks.positions import interleaved_sine


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


def box_positions(boxes: Tensor, width: int) -> Tensor:
    """Sine code of boxes (..., 4) cxcywh -> (..., 2 * width), coordinates in the order y, x, w, h."""
    ordered = boxes[..., [1, 0, 2, 3]]
    return interleaved_sine(ordered * 2 * math.pi, width // 2).flatten(-2)
