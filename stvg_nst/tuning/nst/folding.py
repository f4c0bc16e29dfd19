"""Folding a trained null-space layer for inference: everything that is linear in a row is multiplied out.

The null branch of an exact null space never reaches the output, and goes. The last layer of a coefficient head and the
image of its basis become one map, where that is the smaller one. Where nobody needs the semantic gap any more, because
the layer has no router of its own and its coefficients come from the reference alone, the projection joins the
attention's query, and the attention's output joins the heads. A row branch that reads the HQ null space takes the
projection into its first layer, and where nothing else reads the reference, nothing is looked up any more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stvg_nst.tuning.nst.reference import Assessment, ReferenceBank
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization
from stvg_nst.tuning.nst.unit import HQNullMlp, Mlp, QualityAdaptiveUnit, pool_tokens


class FoldedUnit(nn.Module):
    """A quality-adaptive unit without router or gap; its coefficients are parts of the layer's output."""

    def __init__(self, unit: QualityAdaptiveUnit) -> None:
        super().__init__()
        assert unit.retrieval is not None
        self.row_rank = unit.row_rank
        self.coefficients_per = unit.coefficients_per
        self.attention = unit.retrieval.attention
        if isinstance(unit.retrieval.project, nn.Linear):
            self.attention.query = compose(unit.retrieval.project, self.attention.query)
        assert isinstance(self.attention.out, nn.Linear)
        self.row_head, self.null_head = unit.row_head, unit.null_head
        for head in (self.row_head, self.null_head):
            if head is not None:
                head.inner = compose(self.attention.out, head.inner)
        self.attention.out = nn.Identity()

    def forward(self, x: Tensor, bank: ReferenceBank, mask: Tensor) -> Assessment:
        """As the unit that was folded, without logits."""
        x, _ = pool_tokens(x, mask, self.coefficients_per)
        found = self.attention(x.reshape(len(x), -1, x.shape[-1]), bank)
        found = found.view(*x.shape[:-1], found.shape[-1])
        return Assessment(self.row_head(found), None if self.null_head is None else self.null_head(found), None)


class FoldedSpace(nn.Module):
    """A reparameterisation whose bases have gone into the coefficient heads."""

    def image(self, weight: Tensor, gate: Tensor, row: Tensor, null: Tensor | None) -> Tensor:
        """W dX (B, ..., d_out); row and null are the images of the two parts already."""
        return gate * row if null is None else gate * row + (1 - gate) * null


@torch.no_grad()
def fold_layer(
    unit: QualityAdaptiveUnit, space: DualSpaceReparameterization, weight: Tensor
) -> tuple[QualityAdaptiveUnit | FoldedUnit, DualSpaceReparameterization | FoldedSpace]:
    """The unit and the reparameterisation of a layer, folded; the ones given are used up.

    Args:
        weight: the layer's frozen W (d_out, d_in).
    """
    row_image, null_image = space.images(weight)
    if null_image is None:
        unit.null_head = None
    (d_out, rank), hidden = row_image.shape, unit.row_head.outer.in_features
    folded: DualSpaceReparameterization | FoldedSpace = space
    if hidden * d_out <= rank * (hidden + d_out):
        _append(unit.row_head, row_image)
        if unit.null_head is not None and null_image is not None:
            _append(unit.null_head, null_image)
        unit.row_rank, folded = d_out, FoldedSpace()
    if isinstance(unit.row_head, HQNullMlp):
        unit.row_head.fold()
        if unit.null_head is None and unit.router is None:
            unit.retrieval = unit.project = None
        return unit, folded
    gapless = unit.router is None and unit.coefficients_from == "reference"
    return FoldedUnit(unit) if gapless else unit, folded


def compose(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """One layer for ``second(first(x))``; multiplied in double precision."""
    weight = second.weight.double() @ first.weight.double()
    bias = second.weight.double() @ first.bias.double() + second.bias.double()
    return _linear(weight, bias, like=second.weight)


def _append(head: Mlp, image: Tensor) -> None:
    """Let a head put out ``image @ coefficients``; image is (d_out, k)."""
    before, image = head.outer, image.double()
    bias = None if before.bias is None else image @ before.bias.double()
    head.outer = _linear(image @ before.weight.double(), bias, like=before.weight)


def _linear(weight: Tensor, bias: Tensor | None, *, like: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device=like.device, dtype=like.dtype)
    layer.weight.copy_(weight)
    if bias is not None:
        layer.bias.copy_(bias)
    return layer
