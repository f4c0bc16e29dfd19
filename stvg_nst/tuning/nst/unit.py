"""The Quality-Adaptive Unit, Sec. III-C: what a degraded input lacks, eq. (3), what to add, eq. (4), and the gate.

Shapes follow :mod:`stvg_nst.types`; besides, d_in is a layer's input size, w the width that is retrieved at, and "..."
are the token axes of a layer's input, such as (T,) or (T, M).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.hq_null import HQNullSpace
from stvg_nst.tuning.nst.reference import Assessment, ReferenceBank, masked_mean

GatePer = Literal["clip", "frame"]
CoefficientsFrom = Literal["reference", "reference_and_gap", "input"]
CoefficientsPer = Literal["token", "frame", "clip"]
RowInput = Literal["shared", "hq_null"]


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width_in: int, hidden: int, width_out: int, *, bias: bool = True) -> None:
        super().__init__()
        self.inner = nn.Linear(width_in, hidden, bias=bias)
        self.outer = nn.Linear(hidden, width_out, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(x)))


class HQNullMlp(Mlp):
    """f(P x), where P projects onto the HQ null space and f(0) = 0: on clean clips it has next to nothing to say."""

    space: HQNullSpace | None

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__(width_in, hidden, width_out, bias=False)
        self.space = HQNullSpace(width_in)

    def forward(self, x: Tensor) -> Tensor:
        # P is applied to the weight and not to the input, which has far more tokens than the weight has rows.
        weight = self.inner.weight if self.space is None else self.space.project(self.inner.weight)
        return self.outer(F.gelu(F.linear(x, weight)))

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply P out for inference."""
        assert self.space is not None, "a head is folded once"
        self.inner.weight.copy_(self.space.project(self.inner.weight))
        self.space = None


class CrossAttention(nn.Module):
    """Multi-head cross-attention (MHCA) from tokens of width w to the reference bank of width D.

    Written out because ``nn.MultiheadAttention`` would repeat the bank's mask for every head and query.
    """

    out: nn.Module

    def __init__(self, width: int, bank_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(bank_width, width), nn.Linear(bank_width, width)

    def forward(self, queries: Tensor, bank: ReferenceBank) -> Tensor:
        """queries (B, Q, w) to (B, Q, w); the text's padding is left out."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, Q or 1 + L, w / heads)
            for layer, tokens in (
                (self.query, queries),
                (self.key, bank.tokens),
                (self.value, bank.tokens),
            )
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bank.mask[:, None, None])
        return self.out(found.transpose(1, 2).flatten(2))


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

    def forward(self, x: Tensor, bank: ReferenceBank) -> tuple[Tensor, Tensor]:
        """The retrieved reference X_ref and the semantic gap P X - X_ref of x (B, ..., d_in), both (B, ..., w)."""
        queries = self.project(x)
        found = self.attention(queries.reshape(len(x), -1, queries.shape[-1]), bank).view_as(queries)  # Eq. (3)
        return found, queries - found


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
        gate_per, coefficients_from, coefficients_per, row_input: as in :class:`stvg_nst.tuning.NullSpaceTuning`.
    """

    row_head: Mlp

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
        row_input: RowInput = "shared",
    ) -> None:
        super().__init__()
        self.coefficients_from = coefficients_from
        self.coefficients_per = coefficients_per
        self.row_rank = row_rank
        looks_up = coefficients_from != "input"
        # A row branch of its own input leaves the other branch, and a router, to read what is looked up.
        is_read = row_input == "shared" or null_rank > 0 or routes
        self.retrieval = Retrieval(d_in, bank_width, width=width, heads=heads) if looks_up and is_read else None
        self.project = nn.Linear(d_in, width) if is_read and not looks_up else None
        source = 2 * width if coefficients_from == "reference_and_gap" else width
        self.row_head = Mlp(source, hidden, row_rank) if row_input == "shared" else HQNullMlp(d_in, hidden, row_rank)
        self.null_head = Mlp(source, hidden, null_rank) if null_rank else None
        self.router = Router(width, hidden, gate_per) if routes else None

    def forward(self, x: Tensor, bank: ReferenceBank, mask: Tensor) -> Assessment:
        """Assess x (B, ..., d_in), of which mask (B, ...) says what is real."""
        x, mask = pool_tokens(x, mask, self.coefficients_per)
        source = gap = x
        if self.retrieval is not None:
            found, gap = self.retrieval(x, bank)
            source = found if self.coefficients_from == "reference" else torch.cat([found, gap], dim=-1)
        elif self.project is not None:
            source = gap = self.project(x)  # the ablation without retrieval: a plain perceptron, routed by the input

        # Eq. (4), C_r = MLP_r(X_ref)
        row = self.row_head(x if isinstance(self.row_head, HQNullMlp) else source)
        null = None if self.null_head is None else self.null_head(source)  # Eq. (4), C_n = MLP_n(X_ref)
        return Assessment(row, null, None if self.router is None else self.router(gap, mask))


def pool_tokens(x: Tensor, mask: Tensor, per: CoefficientsPer) -> tuple[Tensor, Tensor]:
    """Mean of the real tokens of each frame or clip, kept as axes of size 1; x is (B, ..., d), mask (B, ...)."""
    kept = {"token": mask.ndim, "frame": 2, "clip": 1}[per]
    if kept >= mask.ndim:
        return x, mask
    ones = (1,) * (mask.ndim - kept)
    pooled = masked_mean(x.flatten(kept, -2), mask.flatten(kept)).to(x.dtype)
    any_real = mask.flatten(kept).any(dim=-1)
    return pooled.reshape(*pooled.shape[:-1], *ones, -1), any_real.reshape(*any_real.shape, *ones)
