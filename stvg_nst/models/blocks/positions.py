"""Sine codes of where and when a token is."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
