"""The Quality-Adaptive Unit, Sec. III-C: what a degraded input lacks, eq. (3), what to add, eq. (4), and the gate.

Shapes follow :mod:`stvg_nst.types`; besides, d_in is a layer's input size, w the width that is retrieved at, and "..."
are the token axes of a layer's input, such as (T,) or (T, M).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.base import TuningModule
from stvg_nst.tuning.nst.coefficients import Coefficients
from stvg_nst.tuning.nst.reference import Assessment, ReferenceBank, masked_mean

GatePer = Literal["clip", "frame"]
CoefficientsFrom = Literal["reference", "reference_and_gap", "input"]
CoefficientsPer = Literal["token", "frame", "clip"]


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width_in, hidden)
        self.outer = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(x)))


class Lookup(NamedTuple):
    """What Q tokens of a clip find in its bank, eq. (3), as mixtures that are written down only where they are needed.

    Args:
        queries: P X (B, Q, w).
        weights: (B, Q, V), of the attention, its heads side by side.
        values: (B, V, w), what the attention would put out for a token of the bank, by head; X_ref = weights @ values.
    """

    queries: Tensor
    weights: Tensor
    values: Tensor

    def found(self) -> Tensor:
        """X_ref (B, Q, w)."""
        return self.weights @ self.values

    def gap(self) -> Tensor:
        """The semantic gap P X - X_ref, (B, Q, w)."""
        return torch.baddbmm(self.queries, self.weights, self.values, alpha=-1)

    def mapped(self, weight: Tensor, bias: Tensor) -> Tensor:
        """A linear map of X_ref (B, Q, d), or of X_ref and the gap side by side, for weight (d, w) or (d, 2 w)."""
        width = self.values.shape[-1]
        if weight.shape[1] == width:
            return torch.baddbmm(bias, self.weights, self.values @ weight.T)
        of_found, of_gap = weight[:, :width], weight[:, width:]
        return torch.baddbmm(F.linear(self.queries, of_gap, bias), self.weights, self.values @ (of_found - of_gap).T)


class CrossAttention(nn.Module):
    """Multi-head cross-attention (MHCA) from tokens of width w to the reference bank of width D.

    Written out because the bank is short. What the attention does to each token's query and output is multiplied into
    the few keys and values of the clip instead.
    """

    def __init__(self, width: int, bank_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(bank_width, width), nn.Linear(bank_width, width)

    def forward(self, queries: Tensor, bank: ReferenceBank) -> Lookup:
        """What queries (B, Q, w) find; the text's padding is left out."""
        heads = self.heads
        key, value = (
            layer(bank.tokens).unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, R, w / heads)
            for layer in (self.key, self.value)
        )
        scale = key.shape[-1] ** -0.5
        scaled = scale * key
        keys = (scaled @ self.query.weight.unflatten(0, (heads, -1))).flatten(1, 2)  # (B, heads R, w)
        offset = (scaled @ self.query.bias.view(heads, -1, 1)).squeeze(-1)  # (B, heads, R)
        offset = offset.masked_fill(~bank.mask[:, None], -math.inf).flatten(1)
        scores = torch.baddbmm(offset[:, None], queries, keys.transpose(1, 2))
        weights = scores.unflatten(-1, (heads, -1)).softmax(dim=-1).flatten(-2)
        # The weights of a head add up to 1, so that each head's values may carry a share of the output's bias.
        values = value @ self.out.weight.unflatten(1, (heads, -1)).permute(1, 2, 0) + self.out.bias / heads
        return Lookup(queries, weights, values.flatten(1, 2))


class Retrieval(nn.Module):
    """Looks up in the reference bank what an input ought to hold, eq. (3).

    Args:
        d_in: features of the input.
        bank_width: D, the width of the bank.
        width: w, the width to retrieve at; below D it is a low-rank retrieval, and cheaper in proportion.
        heads: of the cross-attention.
    """

    def __init__(self, d_in: int, bank_width: int, *, width: int, heads: int) -> None:
        super().__init__()
        self.project = nn.Linear(d_in, width) if d_in != width else nn.Identity()  # P
        self.attention = CrossAttention(width, bank_width, heads)

    def forward(self, x: Tensor, bank: ReferenceBank) -> Lookup:
        """What the Q tokens of each clip of x (B, ..., d_in) find."""
        return self.attention(self.project(x).flatten(1, -2), bank)  # Eq. (3)


class Router(nn.Module):
    """Tells low from high quality by the semantic gap."""

    def __init__(self, width: int, hidden: int, per: GatePer) -> None:
        super().__init__()
        self.per = per
        self.mlp = Mlp(2 * width, hidden, 1)

    def forward(self, gap: Tensor, mask: Tensor) -> Tensor:
        """Logits of low quality, (B,) or (B, T), float32, from the mean and the mean magnitude of the real tokens' gap.

        Args:
            gap: (B, ..., w).
            mask: (B, ...), True on real tokens.
        """
        axes = 1 if self.per == "clip" else 2
        gap = gap.reshape(*gap.shape[:axes], -1, gap.shape[-1])
        mask = mask.reshape(*mask.shape[:axes], -1)
        pooled = torch.cat([masked_mean(gap, mask), masked_mean(gap.abs(), mask)], dim=-1)
        # Half precision would quantise the gate that decides what is preserved; the router is too small to gain by it.
        with torch.autocast(gap.device.type, enabled=False):
            return self.mlp(pooled.to(self.mlp.inner.weight.dtype)).squeeze(-1).float()


class SharedRouter(TuningModule):
    """One router ahead of all wrapped layers: it reads the gap of the grounding model's own visual tokens.

    A clip's gate is then known before the first wrapped layer runs, which is what lets a hard gate skip them all.
    Where the coefficients come from the input alone, so does the gate: nothing is then looked up anywhere.
    """

    def __init__(
        self,
        bank_width: int,
        *,
        width: int,
        heads: int,
        hidden: int,
        per: GatePer,
        coefficients_from: CoefficientsFrom,
    ) -> None:
        super().__init__()
        looks_up = coefficients_from != "input"
        self.retrieval = Retrieval(bank_width, bank_width, width=width, heads=heads) if looks_up else None
        self.project = None if looks_up else nn.Linear(bank_width, width)
        self.router = Router(width, hidden, per)

    def forward(self, tokens: Tensor, mask: Tensor, bank: ReferenceBank) -> Tensor:
        """Logits, (B,) or (B, T), of visual tokens (B, T, N, D) and their mask (B, T, N)."""
        if self.retrieval is not None:
            gap = self.retrieval(tokens, bank).gap().view(*mask.shape, -1)
        else:
            assert self.project is not None
            gap = self.project(tokens)
        return self.router(gap, mask)


class QualityAdaptiveUnit(nn.Module):
    """Detects what a degraded input lacks and proposes coefficients for both subspaces, Sec. III-C.

    Args:
        d_in: features of the layer's input.
        bank_width: D, the width of the bank.
        width: w, the width of retrieval.
        row_rank, null_rank: k_r and k_n; without null directions there is no null branch.
        heads: of the cross-attention.
        hidden: width of the coefficient heads and of the router.
        routes: whether the unit has a router of its own.
        gate_per, coefficients_from, coefficients_per: as in :class:`stvg_nst.tuning.NullSpaceTuning`.
    """

    def __init__(
        self,
        d_in: int,
        bank_width: int,
        *,
        width: int,
        row_rank: int,
        null_rank: int,
        heads: int,
        hidden: int,
        routes: bool,
        gate_per: GatePer,
        coefficients_from: CoefficientsFrom,
        coefficients_per: CoefficientsPer,
    ) -> None:
        super().__init__()
        self.coefficients_from = coefficients_from
        self.coefficients_per = coefficients_per
        looks_up = coefficients_from != "input"
        self.retrieval = Retrieval(d_in, bank_width, width=width, heads=heads) if looks_up else None
        self.project = None if looks_up else nn.Linear(d_in, width)
        source = 2 * width if coefficients_from == "reference_and_gap" else width
        self.row_head = Mlp(source, hidden, row_rank)
        self.null_head = Mlp(source, hidden, null_rank) if null_rank else None
        self.router = Router(width, hidden, gate_per) if routes else None

    def forward(self, x: Tensor, bank: ReferenceBank, mask: Tensor) -> Assessment:
        """Assess x (B, ..., d_in), of which mask (B, ...) says what is real."""
        x, mask = pool_tokens(x, mask, self.coefficients_per)
        heads = [self.row_head] if self.null_head is None else [self.row_head, self.null_head]
        weight, bias = torch.cat([head.inner.weight for head in heads]), torch.cat([head.inner.bias for head in heads])
        if self.retrieval is not None:
            lookup = self.retrieval(x, bank)
            inner, gap = lookup.mapped(weight, bias), lookup.gap
        else:
            assert self.project is not None
            source = self.project(x)  # the ablation without retrieval: a plain perceptron, routed by the input
            inner, gap = F.linear(source, weight, bias), lambda: source
        hidden = F.gelu(inner).view(*mask.shape, -1).chunk(len(heads), dim=-1)
        # Eq. (4), C_r = MLP_r(X_ref) and C_n = MLP_n(X_ref)
        row, *null = (
            Coefficients(part, head.outer.weight, head.outer.bias) for part, head in zip(hidden, heads, strict=True)
        )
        logits = None if self.router is None else self.router(gap().view(*mask.shape, -1), mask)
        return Assessment(row, null[0] if null else None, logits)

    def of_no_clip(self, x: Tensor) -> Coefficients:
        """The row coefficients of none of the clips of x (B, ..., d_in)."""
        outer = self.row_head.outer
        return Coefficients(x.new_zeros(0, *x.shape[1:-1], outer.in_features), outer.weight, outer.bias)


def pool_tokens(x: Tensor, mask: Tensor, per: CoefficientsPer) -> tuple[Tensor, Tensor]:
    """Mean of the real tokens of each frame or clip, kept as axes of size 1; x is (B, ..., d), mask (B, ...)."""
    kept = {"token": mask.ndim, "frame": 2, "clip": 1}[per]
    if kept >= mask.ndim:
        return x, mask
    ones = (1,) * (mask.ndim - kept)
    pooled = masked_mean(x.flatten(kept, -2), mask.flatten(kept)).to(x.dtype)
    any_real = mask.flatten(kept).any(dim=-1)
    return pooled.reshape(*pooled.shape[:-1], *ones, -1), any_real.reshape(*any_real.shape, *ones)
