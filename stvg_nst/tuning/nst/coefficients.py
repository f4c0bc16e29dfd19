"""The coefficients of eq. (4), kept as a product: what follows is multiplied into their matrix, not into each token."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(gate: Tensor, like: Tensor) -> Tensor:
    """A gate or label (B,) or (B, F) with axes of size 1 behind it, to broadcast over ``like`` (B, ...)."""
    return gate.reshape(gate.shape + (1,) * (like.ndim - gate.ndim))


class Coefficients(NamedTuple):
    """Coefficients c = A h + b of tokens, (B, ..., k), that are written down only where somebody asks for them.

    Between h and a layer's output there are only linear maps. Their matrices are small and the tokens are many, so the
    matrices are multiplied first. The token axes "..." are 1 where tokens were pooled.

    Args:
        hidden: h (B, ..., h), the activations ahead of a head's last layer.
        weight: A (k, h).
        bias: b (k,), or one that broadcasts over the tokens, (B, ..., k).
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor

    def written(self) -> Tensor:
        """c itself, (B, ..., k)."""
        # A record of a forward under autocast is read outside of it, too.
        weight, bias = self.weight.to(self.hidden.dtype), self.bias.to(self.hidden.dtype)
        if bias.ndim == 1:
            return F.linear(self.hidden, weight, bias)
        return F.linear(self.hidden, weight) + bias

    def gated(self, gate: Tensor) -> Coefficients:
        """g c, for a gate that broadcasts over the coefficients."""
        return Coefficients(gate * self.hidden, self.weight, gate * self.bias)

    def mapped(self, matrix: Tensor) -> Tensor:
        """M c (B, ..., d) of M (d, k), by whichever order of the factors has the smaller matrices."""
        (d, k), h = matrix.shape, self.hidden.shape[-1]
        if h * d > k * (h + d):
            return F.linear(self.written(), matrix)
        return Coefficients(self.hidden, matrix @ self.weight, F.linear(self.bias, matrix)).written()

    def of_clips(self, clips: Tensor) -> Coefficients:
        """Those of some clips only, by their indices, ahead of any gate."""
        return Coefficients(self.hidden[clips], self.weight, self.bias)

    def energy(self, mask: Tensor) -> Tensor:
        """The sum of |c|^2 over all real tokens, a float32 scalar, ahead of any gate.

        |A h + b|^2 needs of the tokens only the sums of h and of h h^T.

        Args:
            mask: (B, ...), True on real tokens.
        """
        with torch.autocast(self.hidden.device.type, enabled=False):
            weight, bias = self.weight.float(), self.bias.float()
            count = mask.float().sum_to_size(self.hidden.shape[:-1])[..., None]  # a pooled token stands for several
            # Filled, and not multiplied by 0: padding may hold anything, infinities included.
            hidden = self.hidden.float().masked_fill(count == 0, 0.0).flatten(0, -2)
            counted = hidden * count.flatten(0, -2)
            moments, total = counted.T @ hidden, counted.sum(dim=0)
            of_weight = (moments * (weight.T @ weight)).sum()
            return of_weight + 2 * (total @ (weight.T @ bias)) + count.sum() * bias.square().sum()
