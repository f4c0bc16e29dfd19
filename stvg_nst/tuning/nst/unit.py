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

from stvg_nst.tuning.hq_null import HQNullSpace
from stvg_nst.tuning.nst.coefficients import Coefficients
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
        return self.outer(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The activations (..., hidden) ahead of the last layer, of x (..., width_in)."""
        return F.gelu(self.inner(x))

    def coefficients(self, hidden: Tensor) -> Coefficients:
        """What the last layer makes of the activations (B, ..., hidden) ahead of it."""
        weight, bias = self.outer.weight, self.outer.bias
        return Coefficients(hidden, weight, weight.new_zeros(len(weight)) if bias is None else bias)


class HQNullMlp(Mlp):
    """f(P x), where P projects onto the HQ null space and f(0) = 0: on clean clips it has next to nothing to say."""

    space: HQNullSpace | None

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__(width_in, hidden, width_out, bias=False)
        self.space = HQNullSpace(width_in)

    def hidden(self, x: Tensor) -> Tensor:
        # P is applied to the weight and not to the input, which has far more tokens than the weight has rows.
        weight = self.inner.weight if self.space is None else self.space.project(self.inner.weight)
        return F.gelu(F.linear(x, weight))

    @torch.no_grad()
    def fold(self) -> None:
        """Multiply P out for inference."""
        if self.space is not None:
            self.inner.weight.copy_(self.space.project(self.inner.weight))
            self.space = None


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


class Projected(NamedTuple):
    """What stands in for a :class:`Lookup` in the ablation without retrieval: a projection of the input alone.

    Args:
        tokens: (B, ..., w).
    """

    tokens: Tensor

    def gap(self) -> Tensor:
        """What a router reads instead of the semantic gap."""
        return self.tokens

    def mapped(self, weight: Tensor, bias: Tensor) -> Tensor:
        """A linear map of the tokens, for weight (d, w)."""
        return F.linear(self.tokens, weight, bias)


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
        """What the Q tokens of each clip of x (B, ..., d_in) find; a clip of x (B, d_in) is one token."""
        projected = self.project(x)
        queries = projected[:, None] if x.ndim == 2 else projected.flatten(1, -2)
        return self.attention(queries, bank)  # Eq. (3)


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
        read = self._read(x, bank)
        own = self.row_head if isinstance(self.row_head, HQNullMlp) else None
        heads = [head for head in (self.row_head, self.null_head) if head is not None and head is not own]
        hidden: list[Tensor] = [] if own is None else [own.hidden(x)]
        if heads:
            assert read is not None, "where a head reads it, something is looked up"
            weight, bias = (torch.cat([getattr(head.inner, name) for head in heads]) for name in ("weight", "bias"))
            hidden += F.gelu(read.mapped(weight, bias)).view(*mask.shape, -1).chunk(len(heads), dim=-1)
        row = self.row_head.coefficients(hidden[0])  # Eq. (4), C_r = MLP_r(X_ref)
        null = None if self.null_head is None else self.null_head.coefficients(hidden[1])  # C_n = MLP_n(X_ref)
        if self.router is None:
            return Assessment(row, null, None)
        assert read is not None, "a router reads what is looked up"
        return Assessment(row, null, self.router(read.gap().view(*mask.shape, -1), mask))

    def _read(self, x: Tensor, bank: ReferenceBank) -> Lookup | Projected | None:
        """What heads and router read of x (B, ..., d_in); None where nothing reads it."""
        if self.retrieval is not None:
            return self.retrieval(x, bank)
        return None if self.project is None else Projected(self.project(x))

    def of_no_clip(self, x: Tensor) -> Coefficients:
        """The row coefficients of none of the clips of x (B, ..., d_in)."""
        return self.row_head.coefficients(x.new_zeros(0, *x.shape[1:-1], self.row_head.outer.in_features))

    def fold(self, *, keeps_null: bool) -> None:
        """Drop what inference can do without; ``keeps_null`` where some of the null branch reaches the output."""
        if not keeps_null:
            self.null_head = None
        if isinstance(self.row_head, HQNullMlp):
            self.row_head.fold()
            if self.null_head is None and self.router is None:
                self.retrieval = self.project = None


def pool_tokens(x: Tensor, mask: Tensor, per: CoefficientsPer) -> tuple[Tensor, Tensor]:
    """Mean of the real tokens of each frame or clip, kept as axes of size 1; x is (B, ..., d), mask (B, ...)."""
    kept = {"token": mask.ndim, "frame": 2, "clip": 1}[per]
    if kept >= mask.ndim:
        return x, mask
    ones = (1,) * (mask.ndim - kept)
    pooled = masked_mean(x.flatten(kept, -2), mask.flatten(kept)).to(x.dtype)
    any_real = mask.flatten(kept).any(dim=-1)
    return pooled.reshape(*pooled.shape[:-1], *ones, -1), any_real.reshape(*any_real.shape, *ones)
