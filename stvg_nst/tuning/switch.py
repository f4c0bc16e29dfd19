"""The switch: a router in front of the frozen model and a fully fine-tuned copy of a part of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from stvg_nst.tuning.base import LayerReport, TunedLayer, TunedLinear
from stvg_nst.tuning.gated import GatedLayer, GatedTuner
from stvg_nst.tuning.nst.reference import ForwardState
from stvg_nst.tuning.selection import select_modules

TunedOn = Literal["low", "both"]


class SwitchedLayer(GatedLayer):
    """A frozen layer and a trained copy of it: a clip goes through one of them.

    Where every layer with weights in a part of a model is switched by one gate, and nothing in that part mixes clips, a
    clip goes through the frozen part or through the copied one, as if there were two models.
    """

    def __init__(self, base_layer: nn.Module, *, name: str, state: ForwardState) -> None:
        super().__init__(base_layer, name=name, hard=True, state=state)
        self.tuned = copy.deepcopy(base_layer).requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        low = self.gate(x) > 0.5
        if low.all():
            return self.tuned(x)
        y = self.base_layer(x)  # of all clips, so that each product is computed as in the frozen model, to the bit
        # In training the copy runs on no clip rather than not at all: distributed training waits for its gradient.
        if not self.training and not low.any():
            return y
        clips = low.nonzero().squeeze(1)
        return y.index_copy(0, clips, self.tuned(x[clips]).to(y.dtype))


class SwitchedLinear(SwitchedLayer, TunedLinear):
    """A switched linear layer."""


@dataclass
class Switch(GatedTuner):
    """Sends each clip through the frozen part of a model, or through a copy of that part that is trained whole.

    It takes twice the memory of what is tuned, and forgets nothing of a clip that the router takes for high quality.
    """

    scope: Sequence[str]
    """Shell-style patterns of module names, such as ``encoder``; all that is in them is copied. They hold linear layers
    and layer norms only, and lie behind the reference that the router reads."""

    tuned_on: TunedOn = "low"
    """What goes through the copy in training: clips of ``low`` quality alone, or ``both``."""

    free_fields: ClassVar[frozenset[str]] = GatedTuner.free_fields | {"scope", "tuned_on"}
    _norms: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuned_on not in get_args(TunedOn):
            raise ValueError(f"tuned_on must be one of {', '.join(get_args(TunedOn))}, got {self.tuned_on!r}")

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        self.check_router(grounder)
        layers = layers_with_weights(grounder, self.scope)
        linear = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
        self._norms = tuple(name for name in layers if name not in linear)
        wrapped = {
            layer: (SwitchedLinear if name in linear else SwitchedLayer)(layer, name=name, state=self._state)
            for name, layer in layers.items()
        }
        return wrapped, tuple(LayerReport.of(name, layer, "a copy") for name, layer in linear.items())

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"a copy of {name}" for name in self._norms)

    def _gate_in_training(self, labels: Tensor) -> Tensor:
        return labels if self.tuned_on == "low" else torch.ones_like(labels)


def layers_with_weights(model: nn.Module, scope: Sequence[str]) -> dict[str, nn.Module]:
    """The linear layers and layer norms in the modules that match a pattern, by their first name.

    Raises:
        ValueError: a pattern matches nothing, or something else there has weights or buffers.
    """
    inside = {inner for module in select_modules(model, scope).values() for inner in module.modules()}
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if module not in inside or not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            continue
        if not isinstance(module, nn.Linear | nn.LayerNorm):
            raise ValueError(
                f"a switch copies linear layers and layer norms, got {type(module).__name__} at '{name}'; leave it out "
                "of --model.tuner.init_args.scope"
            )
        layers[name] = module
    return layers
