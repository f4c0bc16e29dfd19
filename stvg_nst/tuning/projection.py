"""Full fine-tuning of layers that clean clips cannot tell from the pre-trained ones: every step is projected.

The form is that of Adam-NSCL (Wang et al., CVPR 2021), the paper's reference [19], and of AlphaEdit (Fang et al., ICLR
2025): the optimiser's step times a projection onto the null space of the features to be preserved. Written from the
papers; the null space is cut by a share of energy, where they cut by eigenvalue.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.base import CleanBatch, LayerReport, TunedLayer, TunedLinear, Tuner
from stvg_nst.tuning.clean_inputs import check_calibration_clips, measure_clean_inputs
from stvg_nst.tuning.hq_null import HQNullSpace, check_energy, measure_null_spaces
from stvg_nst.tuning.selection import select_by_name


class ProjectedLinear(TunedLinear):
    """A frozen linear layer whose weight has a trained update: ``y = (W + D) x + b``, D (d_out, d_in) from zero."""

    base_layer: nn.Linear

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__(base_layer)
        self.update = nn.Parameter(torch.zeros_like(base_layer.weight))
        self.space = HQNullSpace(base_layer.in_features).to(base_layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.base_layer.weight + self.update, self.base_layer.bias)

    @torch.no_grad()
    def project(self) -> None:
        """Take out of D what clean clips would notice: after each step, for D was free of it before."""
        self.update.copy_(self.space.project(self.update))

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        layer = copy.deepcopy(self.base_layer)
        layer.weight += self.update
        return layer


@dataclass
class NullSpaceProjection(Tuner):
    """Trains the weights of its layers, each step projected onto the HQ null space of the layer's input.

    Biases stay: they move every clip alike. Weight decay pulls towards the pre-trained weights.
    """

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``decoder.*.linear2``; each must match linear layers only."""

    hq_energy: float = 0.99
    """Share of the clean clips' energy that lies outside the HQ null space: the more, the less moves on clean clips,
    and the less is left to train in. It takes 4 d_in^2 bytes a layer."""

    calibration_clips: int = 64
    """Clean clips of the tuning set to measure the spaces on, before the first step; all where there are fewer."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "hq_energy", "calibration_clips"})

    def __post_init__(self) -> None:
        check_energy(self.hq_energy)
        check_calibration_clips(self.calibration_clips)

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        targets = select_by_name(grounder, self.targets)
        reports = tuple(LayerReport.of(name, layer, "weight, projected") for name, layer in targets.items())
        return {layer: ProjectedLinear(layer) for layer in targets.values()}, reports

    @property
    def clean_clips(self) -> int:
        return self.calibration_clips

    def is_calibrated(self, grounder: nn.Module) -> bool:
        return all(layer.space.is_measured for layer in _projected_layers(grounder).values())

    def calibrate(
        self, grounder: nn.Module, batches: Iterable[CleanBatch], forward: Callable[[CleanBatch], object]
    ) -> None:
        layers = _projected_layers(grounder)
        clean = measure_clean_inputs(grounder, layers, batches, forward)
        measure_null_spaces({name: layer.space for name, layer in layers.items()}, clean, self.hq_energy)

    def after_step(self, grounder: nn.Module, step: int, total_steps: int) -> None:
        for layer in _projected_layers(grounder).values():
            layer.project()


def _projected_layers(model: nn.Module) -> dict[str, ProjectedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, ProjectedLinear)}
