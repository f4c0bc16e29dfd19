"""Means by quality of what is measured clip by clip, the same on any number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from stvg_nst.types import Quality


class QualityMeans(Metric):
    """Means over the clips of each quality.

    Every process holds the sums of all values in both qualities, and all are exchanged at once when the means are asked
    for: a process without a clip of some quality must not keep the others waiting.

    Args:
        names: of the values.
    """

    is_differentiable = False
    full_state_update = False

    sums: Tensor
    counts: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("sums", default=torch.zeros(len(Quality), len(self.names)), dist_reduce_fx="sum")
        self.add_state("counts", default=torch.zeros(len(Quality)), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor], qualities: Tensor) -> None:
        """Adds the clips of a batch.

        Args:
            values: (B,) of each name.
            qualities: (B,), values of :class:`Quality`.
        """
        values_BN = torch.stack([values[name].detach().float() for name in self.names], dim=-1)
        for quality in Quality:
            members = qualities == quality
            self.sums[quality] += values_BN[members].sum(dim=0)
            self.counts[quality] += members.sum()

    def compute(self) -> dict[str, Tensor]:
        """Scalars ``<quality>/<name>``; a quality of which no process has met a clip is left out."""
        return {
            f"{quality.name}/{name}": self.sums[quality, index] / self.counts[quality]
            for quality in Quality
            if self.counts[quality] > 0
            for index, name in enumerate(self.names)
        }
