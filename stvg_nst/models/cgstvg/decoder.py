"""The decoder that finds where: one query a frame, refined by boxes and by mined instance context."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.models.blocks.decoder import FrameMemory
from stvg_nst.models.blocks.layers import MLP, Attention, FeedForward, run_layer
from stvg_nst.models.cgstvg.conditional import attend_conditionally, box_positions
from stvg_nst.models.cgstvg.regions import pool_regions, region_bounds

ContextRule = Callable[[Tensor, Tensor], Tensor]
"""Chooses context frames: boxes (B, T, 4) cxcywh and confidence (B, T) of a stage -> (B, T) bool."""


@dataclass(frozen=True)
class Memory(FrameMemory):
    """What both decoders attend to: appearance cells, text tokens, motion cells.

    Its positions are non-zero on appearance cells only, as in the original.

    Args:
        grid: rows and columns of the padded feature map.
        grid_sizes: (B, 2) rows and columns of each clip's own feature map.
        times: (T, D), the code of each sampled frame's position.
    """

    grid: tuple[int, int]
    grid_sizes: Tensor
    times: Tensor

    def feature_maps(self) -> tuple[Tensor, Tensor]:
        """Appearance and motion cells as maps, each (B, T, h, w, D)."""
        cells = self.grid[0] * self.grid[1]
        maps = self.tokens[:, :, :cells], self.tokens[:, :, -cells:]
        return maps[0].unflatten(2, self.grid), maps[1].unflatten(2, self.grid)


class ContextAttention(nn.Module):
    """Refines the queries by the mined instance context: cross-attention and a square perceptron, both post-norm."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attn = Attention(width, num_heads, dropout)
        self.attn_norm = nn.LayerNorm(width, eps=1e-12)
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, T, D), context (B, R, D), mask (B, R) True on context; a clip without any is left unchanged."""
        has_context = mask.any(-1)
        # A row without keys would be NaN, and so would its gradient; such rows see everything and are dropped below.
        visible = mask | ~has_context[:, None]
        y = self.attn_norm(x + self.dropout(self.attn(x, context, context, visible)))
        y = self.norm(y + self.dropout(self.linear2(F.gelu(self.linear1(y)))))
        return torch.where(has_context[:, None, None], y, x)


class BoxDecoderLayer(nn.Module):
    """One round of box refinement: self-attention over time, context, conditional cross-attention, perceptron."""

    def __init__(self, width: int, num_heads: int, hidden: int, dropout: float, *, first: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.first = first

        def projection() -> nn.Linear:
            return nn.Linear(width, width)

        self.sa_q_content_proj, self.sa_q_position_proj, self.sa_q_time_proj = projection(), projection(), projection()
        self.sa_k_content_proj, self.sa_k_position_proj, self.sa_k_time_proj = projection(), projection(), projection()
        self.sa_v_proj = projection()
        self.self_attn = Attention(width, num_heads, dropout)
        self.self_norm = nn.LayerNorm(width)

        if not first:
            self.context_attn = ContextAttention(width, num_heads, dropout)

        self.ca_q_content_proj, self.ca_q_sine_proj = projection(), projection()
        self.ca_k_content_proj, self.ca_k_position_proj = projection(), projection()
        self.ca_v_proj, self.ca_out_proj = projection(), projection()
        if first:
            self.ca_q_position_proj = projection()
        self.cross_norm = nn.LayerNorm(width)

        self.dropout = nn.Dropout(dropout)
        self.ffn = FeedForward(width, hidden, dropout)

    def forward(
        self,
        x: Tensor,
        query_position: Tensor,
        query_sine: Tensor,
        memory: Memory,
        context: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """States, positions and sine codes (B, T, D); context tokens and mask (B, R, D), (B, R)."""
        x = self.self_norm(x + self.dropout(self._attend_over_time(x, query_position, memory)))
        if context is not None:
            x = self.context_attn(x, *context)
        x = self.cross_norm(x + self.dropout(self._attend_to_frame(x, query_position, query_sine, memory)))
        return self.ffn(x)

    def _attend_over_time(self, x: Tensor, query_position: Tensor, memory: Memory) -> Tensor:
        times = memory.times.expand_as(x)
        query = self.sa_q_content_proj(x) + self.sa_q_time_proj(times) + self.sa_q_position_proj(query_position)
        key = self.sa_k_content_proj(x) + self.sa_k_time_proj(times) + self.sa_k_position_proj(query_position)
        return self.self_attn(query, key, self.sa_v_proj(x), memory.frame_mask)

    def _attend_to_frame(self, x: Tensor, query_position: Tensor, query_sine: Tensor, memory: Memory) -> Tensor:
        content, position = self.ca_q_content_proj(x), self.ca_q_sine_proj(query_sine)
        if self.first:  # The key is content plus position here, so that this query scores both.
            content = content + self.ca_q_position_proj(query_position)
            position = position + content
        mixed = attend_conditionally(
            (content, self.ca_k_content_proj(memory.tokens)),
            (position, self.ca_k_position_proj(memory.positions)),
            self.ca_v_proj(memory.tokens),
            num_heads=self.num_heads,
            mask=memory.token_mask,
            dropout=self.dropout.p if self.training else 0.0,
        )
        return self.ca_out_proj(mixed)


class BoxDecoder(nn.Module):
    """Finds where: boxes and their confidence after each layer, refined by context from the frames it trusts.

    Args:
        recompute: as in :class:`stvg_nst.models.blocks.encoder.CrossModalEncoder`.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        num_heads: int,
        hidden: int,
        dropout: float,
        head_dropout: float,
        *,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.width = width
        self.layers = nn.ModuleList(
            BoxDecoderLayer(width, num_heads, hidden, dropout, first=index == 0) for index in range(depth)
        )
        self.query_scale = MLP((width, width, width))
        self.position_head = MLP((2 * width, width, width))
        self.box_head = MLP((width, width, width, 4))
        self.appearance_confidence = MLP((width, width, 1), head_dropout)
        self.motion_confidence = MLP((width, width, 1), head_dropout)
        self.appearance_context = MLP((width, width, width))
        self.motion_context = MLP((width, width, width))

    def forward(self, anchors: Tensor, memory: Memory, select_context: ContextRule) -> tuple[Tensor, Tensor]:
        """Anchors (B, T, 4) cxcywh -> boxes (S, B, T, 4) cxcywh and confidence (S, B, T) in (0, 2)."""
        appearance_map, motion_map = memory.feature_maps()
        x = torch.zeros_like(memory.tokens[:, :, 0])
        context: tuple[Tensor, Tensor] | None = None
        all_boxes, all_confidences = [], []
        for layer in self.layers:
            sine = box_positions(anchors, self.width)
            query_sine = sine[..., : self.width]
            if not layer.first:
                query_sine = query_sine * self.query_scale(x)
            position = self.position_head(sine)
            x = run_layer(layer, x, position, query_sine, memory, context, recompute=self.recompute)
            # In full precision under autocast too: half of it would move boxes by pixels, and regions by cells.
            boxes = self.box_head(x).float().sigmoid()
            anchors = boxes.detach()

            bounds = region_bounds(anchors, memory.grid_sizes)
            appearance, motion = pool_regions(appearance_map, bounds), pool_regions(motion_map, bounds)
            confidence = (
                self.appearance_confidence(appearance).float().sigmoid()
                + self.motion_confidence(motion).float().sigmoid()
            ).squeeze(-1)
            chosen = select_context(anchors, confidence.detach()) & memory.frame_mask
            context = (
                torch.cat((self.appearance_context(appearance), self.motion_context(motion)), dim=1),
                torch.cat((chosen, chosen), dim=1),
            )
            all_boxes.append(boxes)
            all_confidences.append(confidence)
        return torch.stack(all_boxes), torch.stack(all_confidences)
