"""Adapters (Houlsby et al., ICML 2019): a small perceptron behind a frozen layer, added to its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.tuning.base import LayerReport, TunedLayer, TunedLinear, Tuner
from stvg_nst.tuning.initial_values import drawn
from stvg_nst.tuning.selection import select_by_name


class BottleneckLinear(TunedLinear):
    """A frozen linear layer ``h = W x + b`` with a bottleneck behind it: ``h + U gelu(D h + d) + u``.

    Args:
        base_layer: the frozen layer.
        width: of the bottleneck.
    """

    def __init__(self, base_layer: nn.Linear, width: int) -> None:
        super().__init__(base_layer)
        self.down = nn.Linear(base_layer.out_features, width).to(base_layer.weight)
        self.up = nn.Linear(width, base_layer.out_features).to(base_layer.weight)
        # The paper starts near the identity; this starts from it.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.base_layer(x)
        return h + self.up(F.gelu(self.down(h)))


@dataclass
class HoulsbyAdapters(Tuner):
    """Adapters (Houlsby et al., ICML 2019) on the outputs of the layers that match ``targets``.

    The paper has them behind the last layer of each attention and of each perceptron, ahead of the residual sum. On
    these layers they are the paper's; a scope may name more.
    """

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``encoder.*.linear2``; each must match linear layers only."""

    width: int = 64
    """Of each bottleneck; a layer of fewer outputs gets one of as many."""

    seed: int | None = None
    """Of the initial values, which depend on it and the layer's name only; the run's seed if not given."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "seed"})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width must be at least 1, got {self.width}; raise --model.tuner.init_args.width")

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        wrapped: dict[nn.Module, TunedLayer] = {}
        reports = []
        for name, layer in select_by_name(grounder, self.targets).items():
            width = min(self.width, layer.out_features)
            with drawn(self.seed, name):
                wrapped[layer] = BottleneckLinear(layer, width)
            reports.append(LayerReport.of(name, layer, f"bottleneck {width}"))
        return wrapped, tuple(reports)
