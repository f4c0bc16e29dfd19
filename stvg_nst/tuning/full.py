"""Full fine-tuning: the weights themselves are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from stvg_nst.tuning.base import InjectionReport, LayerReport, TunedLayer, Tuner
from stvg_nst.tuning.selection import select_modules

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


@dataclass
class FullFineTuning(Tuner):
    """Trains whole parts of the model; the rest stays frozen and in eval mode.

    With everything but the visual backbones as its scope, it is also how a grounder is pretrained.

    Args:
        scope: shell-style patterns of module names; a module that matches is trained with all that is in it.
        dropout: let the trained parts drop features in training; ``false`` keeps them in eval mode, in which every
            other tuner holds the model too. Batch norms stay there anyway: their weights are trained, their statistics
            are part of what is frozen.
    """

    scope: Sequence[str] = ("encoder", "time_decoder", "box_decoder", "*_head")
    dropout: bool = False

    free_fields: ClassVar[frozenset[str]] = frozenset({"dropout"})

    def inject(self, grounder: nn.Module) -> InjectionReport:
        parts = select_modules(grounder, self.scope)
        report = super().inject(grounder)
        for part in parts.values():
            part.requires_grad_(True)
        return replace(report, trainable=sum(parameter.numel() for parameter in self.trainable_parameters(grounder)))

    def set_training(self, grounder: nn.Module, mode: bool) -> None:
        grounder.eval()
        for part in select_modules(grounder, self.scope).values():
            part.train(mode and self.dropout)
        for module in grounder.modules():
            if isinstance(module, BATCH_NORMS):
                module.eval()

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        return {}, ()

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"all of {pattern}" for pattern in self.scope)
