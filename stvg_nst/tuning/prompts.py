"""Deep visual prompts (VPT-deep, Jia et al., ECCV 2022): trained tokens in front of those that a layer is given.

Prompts enlarge the softmax of the layer's attention, so that tuning does not start from the pre-trained function. They
are drawn small: beside normed tokens their keys and values are hardly more than the projections' biases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from stvg_nst.models.base import TokenLayer
from stvg_nst.tuning.base import LayerReport, TunedLayer, Tuner
from stvg_nst.tuning.initial_values import drawn
from stvg_nst.tuning.selection import check_patterns, select_modules


class PromptedLayer(TunedLayer):
    """A frozen layer of attending tokens with trained tokens in front of its own; what becomes of them is dropped.

    Args:
        base_layer: the frozen layer.
        count: P, the prompts.
    """

    def __init__(self, base_layer: TokenLayer, count: int) -> None:
        super().__init__(base_layer)
        like = next(base_layer.parameters())
        bound = math.sqrt(3 / base_layer.width)  # Xavier's of a square map: the prompts' length is about 1
        self.prompts = nn.Parameter(torch.empty(count, base_layer.width).uniform_(-bound, bound).to(like))

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """As the layer's own, of tokens (B, T, M, D), positions (B, 1, M, D) and mask (B, 1 or T, M)."""
        count = len(self.prompts)
        prompts = self.prompts.to(tokens.dtype).expand(*tokens.shape[:2], -1, -1)
        longer = self.base_layer(
            torch.cat((prompts, tokens), dim=2),
            torch.cat((positions.new_zeros(*positions.shape[:2], count, positions.shape[-1]), positions), dim=2),
            torch.cat((mask.new_ones(*mask.shape[:2], count), mask), dim=2),
        )
        return longer[:, :, count:]


@dataclass
class PromptTuning(Tuner):
    """Deep visual prompt tuning (Jia et al., ECCV 2022): trained tokens in front of each encoder layer's visual ones.

    Every layer has prompts of its own, which see all tokens of a frame and are the same for all frames. It does not
    start from the pre-trained function.
    """

    scope: Sequence[str]
    """Shell-style patterns of module names, such as ``encoder``; each must hold layers of visual tokens."""

    count: int = 10
    """Prompts of each layer."""

    seed: int | None = None
    """Of the initial values, which depend on it and the layer's name only; the run's seed if not given."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"scope", "seed"})
    _layers: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1 prompt, got {self.count}; raise --model.tuner.init_args.count")

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        layers = token_layers(grounder, self.scope)
        self._layers = tuple(layers)
        wrapped: dict[nn.Module, TunedLayer] = {}
        for name, layer in layers.items():
            with drawn(self.seed, name):
                wrapped[layer] = PromptedLayer(layer, self.count)
        return wrapped, ()

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(f"{self.count} prompts in front of {name}" for name in self._layers)


def token_layers(model: nn.Module, scope: Sequence[str]) -> dict[str, TokenLayer]:
    """The layers of attending visual tokens in the modules that match a pattern, by name.

    Raises:
        ValueError: a pattern matches nothing, or no such layer lies in it.
    """
    check_patterns(scope)
    layers: dict[str, TokenLayer] = {}
    for pattern in scope:
        inside = {inner for module in select_modules(model, [pattern]).values() for inner in module.modules()}
        found = {name: m for name, m in model.named_modules() if m in inside and isinstance(m, TokenLayer)}
        if not found:
            raise ValueError(
                f"scope '{pattern}' holds no layer that visual tokens attend to each other in, and prompts stand in "
                "front of these: a decoder has none; choose experiments/scope/encoder_modules.yaml"
            )
        layers |= found
    return layers
