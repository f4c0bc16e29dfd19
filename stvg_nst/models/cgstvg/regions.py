"""Mean features of a box on a feature map, for all frames at once."""

from __future__ import annotations

import torch
from torch import Tensor

from stvg_nst.boxes import cxcywh_to_xyxy


def region_bounds(boxes: Tensor, grid_sizes: Tensor) -> Tensor:
    """Integer cells that boxes cover: (B, T, 4) cxcywh -> (B, T, 4) int64 x1, y1, x2, y2, half-open, never empty.

    Three corners are rounded half to even and the right one upwards, as in CG-STVG, whose trained weights expect it.

    Args:
        grid_sizes: (B, 2) rows and columns of each clip's own feature map, without padding.
    """
    columns, rows = grid_sizes[:, None, 1], grid_sizes[:, None, 0]
    x1, y1, x2, y2 = cxcywh_to_xyxy(boxes).clamp(min=0).unbind(-1)
    right = (x2 * columns).ceil().long().clamp(min=1).minimum(columns)
    bottom = (y2 * rows).round().long().clamp(min=1).minimum(rows)
    left = (x1 * columns).round().long().clamp(min=0).minimum(right - 1)
    top = (y1 * rows).round().long().clamp(min=0).minimum(bottom - 1)
    return torch.stack((left, top, right, bottom), dim=-1)


def pool_regions(features: Tensor, bounds: Tensor) -> Tensor:
    """Mean of (B, T, h, w, D) over the cells of one region a frame, (B, T, 4) -> (B, T, D)."""
    left, top, right, bottom = bounds.unbind(-1)
    row = torch.arange(features.shape[2], device=features.device)
    column = torch.arange(features.shape[3], device=features.device)
    in_rows = ((row >= top[..., None]) & (row < bottom[..., None])).to(features.dtype)
    in_columns = ((column >= left[..., None]) & (column < right[..., None])).to(features.dtype)
    area = in_rows.sum(-1) * in_columns.sum(-1)
    weights = in_rows[..., :, None] * in_columns[..., None, :] / area[..., None, None]
    return torch.einsum("bthw,bthwd->btd", weights, features)
