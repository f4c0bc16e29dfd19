"""Full fine-tuning: the weights themselves are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import nn

from stvg_nst.tuning.base import InjectionReport, LayerReport, TunedLinear, Tuner


@dataclass
class FullFineTuning(Tuner):
    """Trains whole parts of the model; the rest stays frozen and in eval mode.

    With everything but the visual backbones as its scope, it is also how a grounder is pretrained.

    Args:
        scope: shell-style patterns of module names; a module that matches is trained with all that is in it.
        dropout: let the trained parts drop features in training; ``false`` keeps them in eval mode, in which every
            other tuner holds the model too.
    """

    scope: Sequence[str] = ("encoder", "time_decoder", "box_decoder", "*_head")
    dropout: bool = False

    def inject(self, grounder: nn.Module) -> InjectionReport:
        parts = self._parts(grounder)
        report = super().inject(grounder)
        for part in parts:
            part.requires_grad_(True)
        return replace(report, trainable=sum(parameter.numel() for parameter in self.trainable_parameters(grounder)))

    def set_training(self, grounder: nn.Module, mode: bool) -> None:
        grounder.eval()
        for part in self._parts(grounder):
            part.train(mode and self.dropout)

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        return {}, ()

    def _parts(self, grounder: nn.Module) -> list[nn.Module]:
        modules = dict(grounder.named_modules())
        parts = []
        for pattern in self.scope:
            matched = [module for name, module in modules.items() if name and fnmatchcase(name, pattern)]
            if not matched:
                children = ", ".join(f"'{name}'" for name, _ in grounder.named_children())
                raise ValueError(f"scope '{pattern}' matches no module; the model's parts are {children}")
            parts += matched
        return parts
