"""Gated LoRA: LoRA's update for the clips of low quality alone, as a router tells them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.base import LayerReport, TunedLinear
from stvg_nst.tuning.gated import GatedLayer, GatedTuner
from stvg_nst.tuning.lowrank import LowRankTuner, capped_rank, describe_rank
from stvg_nst.tuning.nst.coefficients import spread
from stvg_nst.tuning.nst.reference import ForwardState

Gate = Literal["soft", "hard"]


class GatedLoraLinear(GatedLayer, TunedLinear):
    """A frozen linear layer ``y = W x + b`` plus ``g * scale * B A x``, g being the clip's gate.

    Args:
        base_layer, name, hard, state: as in :class:`stvg_nst.tuning.gated.GatedLayer`.
        rank: of A (rank, d_in) and B (d_out, rank).
        scale, dropout: as in :class:`GatedLoRA`.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
        *,
        name: str,
        hard: bool,
        state: ForwardState,
        rank: int,
        scale: float,
        dropout: float,
    ) -> None:
        super().__init__(base_layer, name=name, hard=hard, state=state)
        dtype = base_layer.weight.dtype
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(torch.empty(rank, base_layer.in_features, dtype=dtype))
        self.lora_b = nn.Parameter(torch.zeros(base_layer.out_features, rank, dtype=dtype))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as PEFT draws LoRA's

    def forward(self, x: Tensor) -> Tensor:
        gate, y = self.gate(x), self.base_layer(x)
        if self.hard and not self.training:
            clips = gate.nonzero().squeeze(1)
            return y.index_add(0, clips, self._update(x[clips], gate[clips]).to(y.dtype)) if len(clips) else y
        return y + self._update(x, gate)

    def _update(self, x: Tensor, gate: Tensor) -> Tensor:
        """``g scale B A x`` of clips x (B, ..., d_in) and their gates (B,)."""
        update = F.linear(F.linear(self.dropout(x), self.lora_a), self.lora_b) * self.scale
        return spread(gate, x).to(update.dtype) * update


@dataclass
class GatedLoRA(GatedTuner, LowRankTuner):
    """LoRA behind a router: ``W x + g scale B A x``, A and B trained, B from zero, and nothing retrieved but for g.

    It has the router of null-space tuning, and the gate g of a clip is its quality label in training.
    """

    gate: Gate = "soft"
    """What the router says at inference: as it is, or rounded (``hard``), which leaves the frozen model to the clips it
    takes for high quality."""

    free_fields: ClassVar[frozenset[str]] = GatedTuner.free_fields | {"targets", "dropout", "gate"}

    def __post_init__(self) -> None:
        GatedTuner.__post_init__(self)
        LowRankTuner.__post_init__(self)
        if self.gate not in get_args(Gate):
            raise ValueError(f"gate must be one of {', '.join(get_args(Gate))}, got {self.gate!r}")

    @property
    def hard(self) -> bool:
        return self.gate == "hard"

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        self.check_router(grounder)
        return super()._wrap(grounder)

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        wrapper = GatedLoraLinear(
            layer,
            name=name,
            hard=self.hard,
            state=self._state,
            rank=capped_rank(self.rank, layer),
            scale=self.scale,
            dropout=self.dropout,
        )
        return wrapper, f"{describe_rank(self.rank, layer)}, gated"
