"""FlyLoRA (Zou et al., NeurIPS 2025, arXiv 2510.08396), which PEFT does not have: written from the paper.

A frozen sparse random projection proposes directions, and each token uses only those that it excites most: every
direction is an expert, and the projection routes. A bias that no gradient moves keeps the experts equally busy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.base import TunedLinear
from stvg_nst.tuning.lowrank import LowRankTuner, capped_rank, describe_rank

Selection = Literal["magnitude", "signed"]


class FlyLoraLinear(TunedLinear):
    """A frozen linear layer ``y = W x + b`` plus ``scale * sum of z_i b_i`` over the directions i that a token keeps.

    Buffers, saved with the adapter: projection A (rank, d_in), of which ``z = A x``, and routing_bias d (rank,).

    Args:
        base_layer: the frozen layer.
        projection: A.
        active: k, the directions that each token keeps.
        scale, selection, dropout: as in :class:`FlyLoRA`.
    """

    moving_buffers = frozenset({"routing_bias"})
    projection: Tensor
    routing_bias: Tensor

    def __init__(
        self,
        base_layer: nn.Linear,
        projection: Tensor,
        *,
        active: int,
        scale: float,
        selection: Selection,
        dropout: float,
    ) -> None:
        super().__init__(base_layer)
        rank, dtype = len(projection), base_layer.weight.dtype
        self.active = active
        self.scale = scale
        self.selection = selection
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("projection", projection.to(dtype))
        # In single precision whatever the weight's: it moves by steps that half precision would round away.
        self.register_buffer("routing_bias", torch.zeros(rank, dtype=torch.float32))
        self.experts = nn.Parameter(torch.zeros(base_layer.out_features, rank, dtype=dtype))  # B, one column each
        self._counts: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(self.dropout(x), self.projection)  # (..., rank)
        kept = self._select(z)
        if self.training:
            counts = kept.flatten(0, -2).sum(dim=0, dtype=torch.float32)
            self._counts = counts if self._counts is None else self._counts + counts
        # The routing bias chooses and adds nothing: the value is z itself.
        return self.base_layer(x) + F.linear(z.masked_fill(~kept, 0.0), self.experts) * self.scale

    def _select(self, z: Tensor) -> Tensor:
        """Which directions each token keeps, (..., rank) bool, ``active`` of them True."""
        scores = z.detach() + self.routing_bias
        if self.selection == "magnitude":
            scores = scores.abs()
        chosen = scores.topk(self.active, dim=-1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, chosen, True)

    def take_counts(self) -> Tensor:
        """How many tokens kept each direction, (rank,), in training since this was last asked; padding counts too."""
        counts, self._counts = self._counts, None
        return torch.zeros_like(self.routing_bias) if counts is None else counts


@dataclass
class FlyLoRA(LowRankTuner):
    """FlyLoRA (Zou et al., NeurIPS 2025): ``W x + scale sum of z_i b_i`` over the k largest of ``z = A x``, A frozen.

    Entries of A are drawn from N(0, 1 / rank^2) or zero; the b_i start at zero and are all that is trained.
    """

    active_share: float = 0.25
    """Share k / rank of a layer's directions that each token keeps, at least one of them, and share of the entries in
    each row of A that are not zero. The default is the paper's."""

    selection: Selection = "magnitude"
    """What the largest are: ``magnitude`` ranks by |z + d|, ``signed`` by z + d, d being the bias that balances; its
    authors have published both. By magnitude a larger d favours a direction where z is positive and the reverse
    elsewhere, so only ``signed`` is sure to even the load out."""

    bias_step: float = 1e-3
    """u: how far an optimiser step moves d, up for directions that fewer tokens kept than the mean, down for others."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "dropout", "seed", "bias_step"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.active_share <= 1:
            raise ValueError(
                f"active_share must lie in (0, 1], got {self.active_share}; change --model.tuner.init_args.active_share"
            )
        if self.selection not in get_args(Selection):
            raise ValueError(f"selection must be one of {', '.join(get_args(Selection))}, got {self.selection!r}")
        if self.bias_step < 0:
            raise ValueError(f"bias_step must not be negative, got {self.bias_step}")

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        rank = capped_rank(self.rank, layer)
        active = max(1, round(self.active_share * rank))
        # The deviation of the rank that was asked for: a capped layer has fewer of the same directions.
        projection = sparse_projection(rank, layer.in_features, share=self.active_share, std=1 / self.rank)
        wrapper = FlyLoraLinear(
            layer,
            projection,
            active=active,
            scale=self.scale,
            selection=self.selection,
            dropout=self.dropout,
        )
        return wrapper, f"{describe_rank(self.rank, layer)}, {active} active"

    @torch.no_grad()
    def after_step(self, grounder: nn.Module, step: int, total_steps: int) -> None:
        """Move each layer's routing bias by what the step's tokens kept, over all batches and processes of the step."""
        layers = [module for module in grounder.modules() if isinstance(module, FlyLoraLinear)]
        counts = [layer.take_counts() for layer in layers]
        gathered = torch.cat(counts)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(gathered)  # all layers in one message
        for layer, count in zip(layers, gathered.split([len(count) for count in counts]), strict=True):
            layer.routing_bias += self.bias_step * (count.mean() - count).sign()


def sparse_projection(rank: int, d_in: int, *, share: float, std: float) -> Tensor:
    """A (rank, d_in), drawn from the global generator: ``share`` of each row's entries from N(0, std^2), the rest zero.

    The entries stand at random places of their own in each row, at least one of them.
    """
    filled = max(1, round(share * d_in))
    places = torch.rand(rank, d_in).argsort(dim=1)[:, :filled]
    return torch.zeros(rank, d_in).scatter(1, places, std * torch.randn(rank, filled))
