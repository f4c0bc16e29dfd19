"""The router ahead of all tuned layers: what it reads, what it learns from, and where its hard gate opens.

A clip's gate is known before the first tuned layer runs, which is what lets a hard gate skip them all. No router reads
anything that a gate has touched, so that a label which is the gate in training cannot reach it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.models.base import Reference
from stvg_nst.tuning.base import TuningModule
from stvg_nst.tuning.nst.reference import ReferenceBank, masked_mean
from stvg_nst.tuning.nst.unit import CoefficientsFrom, GatePer, Mlp, Retrieval, Router
from stvg_nst.types import BackboneFeatures

RouterReads = Literal["gap", "statistics"]


class SharedRouter(TuningModule):
    """One router for a clip; a child of the grounder's reference point.

    ``threshold`` is a scalar, the logit above which a hard gate opens: 0, a probability of one half, until it is
    calibrated.
    """

    threshold: Tensor
    later_buffers = frozenset({"threshold"})

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.zeros(()))

    @abstractmethod
    def forward(self, reference: Reference, bank: ReferenceBank) -> Tensor:
        """Logits of low quality, (B,) or (B, T), float32."""


class GapRouter(SharedRouter):
    """Reads the semantic gap of the grounding model's own visual tokens, as a router in a layer reads its input's.

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

    def forward(self, reference: Reference, bank: ReferenceBank) -> Tensor:
        tokens, mask = reference.visual.detach(), reference.visual_mask & reference.frame_mask[..., None]
        if self.retrieval is not None:
            gap = self.retrieval(tokens, bank).gap().view(*mask.shape, -1)
        else:
            assert self.project is not None
            gap = self.project(tokens)
        return self.router(gap, mask)


class StatisticsRouter(SharedRouter):
    """Reads statistics of the frozen encoders' features, :func:`frame_statistics`, each kind normalised by itself.

    It reads no sentence, so that any clip can teach it whose quality is known.

    Args:
        channels: of each encoder's features.
        hidden: width of the perceptron.
        per: what a gate is for; the statistics of a clip are means over its real frames.
    """

    def __init__(self, channels: Sequence[int], *, hidden: int, per: GatePer) -> None:
        super().__init__()
        self.per = per
        self.mlp = Mlp(3 * sum(channels), hidden, 1)

    def forward(self, reference: Reference, bank: ReferenceBank) -> Tensor:
        if reference.features is None:
            raise ValueError(
                "the grounder hands no features to its ReferencePoint, and the router reads their statistics; pass "
                "features= there, or set router_reads to gap"
            )
        return self.of_features(reference.features, reference.frame_mask)

    def of_features(self, features: BackboneFeatures, frame_mask: Tensor) -> Tensor:
        """Logits, (B,) or (B, T), of clips of which nothing but their features is known; frame_mask is (B, T)."""
        # Half precision would quantise the gate that decides what is preserved.
        with torch.autocast(frame_mask.device.type, enabled=False):
            kinds = [
                statistic if self.per == "frame" else masked_mean(statistic, frame_mask)
                for maps in features.maps
                for statistic in frame_statistics(maps, features.cell_mask, frame_mask)
            ]
            read = torch.cat([F.layer_norm(kind, kind.shape[-1:]) for kind in kinds], dim=-1)
            return self.mlp(read.to(self.mlp.inner.weight.dtype)).squeeze(-1).float()


@torch.no_grad()
def frame_statistics(maps: Tensor, cell_mask: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation over a frame's cells, and their mean change since the frame before.

    The first frame has the change of the second one, or 0 where it is alone.

    Args:
        maps: (B, T, C, h, w).
        cell_mask: (B, h, w) bool, True on cells of the clip.
        frame_mask: (B, T) bool, True on real frames.

    Returns:
        Three of (B, T, C), float32.
    """
    real = cell_mask[:, None] & frame_mask[..., None, None]
    cells = maps.float().masked_fill(~real[:, :, None], 0.0)  # padding may hold anything
    count = cell_mask.sum(dim=(1, 2)).clamp(min=1)[:, None, None]
    mean = cells.sum(dim=(3, 4)) / count
    spread = (cells.square().sum(dim=(3, 4)) / count - mean.square()).clamp(min=0.0).sqrt()
    change = (cells[:, 1:] - cells[:, :-1]).abs().sum(dim=(3, 4)) / count
    change = change.masked_fill(~frame_mask[:, 1:, None], 0.0)
    first = change[:, :1] if change.shape[1] else torch.zeros_like(mean)
    return mean, spread, torch.cat([first, change], dim=1)


def shared_router(model: nn.Module) -> SharedRouter:
    """The router of a model that has one ahead of its tuned layers."""
    return next(module for module in model.modules() if isinstance(module, SharedRouter))
