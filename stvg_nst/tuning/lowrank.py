"""What the low-rank baselines share: which layers they adapt, with how many directions, at what scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from stvg_nst.tuning.base import LayerReport, TunedLinear, Tuner
from stvg_nst.tuning.initial_values import drawn
from stvg_nst.tuning.selection import leave_out_zeros, select_by_name


@dataclass
class LowRankTuner(Tuner):
    """Adds ``alpha / rank`` times a product of two thin matrices to the frozen weight of each target layer.

    Ranks are capped by the layer: one of d_in inputs and d_out outputs gets min(rank, d_in, d_out) directions, because
    more would add parameters and no update that fewer cannot make. A capped layer has fewer of the same directions, so
    their scale stays ``alpha / rank`` with the rank that was asked for. The report of the injection shows each cap.
    """

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``decoder.*.linear2``; each must match linear layers only."""

    rank: int = 64
    """Directions of each layer's update; fewer where a layer cannot hold so many. The paper uses 64."""

    alpha: float = 64.0
    """The update is scaled by ``alpha / rank``, in every layer."""

    dropout: float = 0.0
    """Share of a layer's input that its update does not see in training."""

    seed: int | None = None
    """Of the adapters' initial values, which depend on it and the layer's name only; the run's seed if not given."""

    takes_weights_apart: ClassVar[bool] = False
    """Whether a layer whose weight is zero has nothing for this method, and is left out."""

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise ValueError(f"alpha must be positive, got {self.alpha}; raise --model.tuner.init_args.alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"dropout is a share, in [0, 1), got {self.dropout}; change --model.tuner.init_args.dropout"
            )

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        targets = select_by_name(grounder, self.targets)
        if self.takes_weights_apart:
            targets = leave_out_zeros(targets)
        self._check(targets)
        wrapped: dict[nn.Module, TunedLinear] = {}
        reports = []
        for name, layer in targets.items():
            with drawn(self.seed, name):
                wrapper, adapter = self._wrap_layer(name, layer)
            wrapped[layer] = wrapper.to(layer.weight.device)
            reports.append(LayerReport.of(name, layer, adapter))
        return wrapped, tuple(reports)

    def _check(self, targets: Mapping[str, nn.Linear]) -> None:
        """Raise where an option does not fit the target layers.

        Raises:
            ValueError: the rank is none, or more than any of them can hold.
        """
        most = max(min(layer.in_features, layer.out_features) for layer in targets.values())
        if not 1 <= self.rank <= most:
            raise ValueError(
                f"rank must lie in [1, {most}], which is what the largest of {len(targets)} target layers can hold, "
                f"got {self.rank}; {'raise' if self.rank < 1 else 'lower'} --model.tuner.init_args.rank"
            )

    @abstractmethod
    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        """A layer's wrapper, drawn from the global generator, and what it adds in a few words."""


def capped_rank(rank: int, layer: nn.Linear) -> int:
    """The directions that a low-rank update of this layer gets where ``rank`` are asked for."""
    return min(rank, layer.in_features, layer.out_features)


def describe_rank(rank: int, layer: nn.Linear) -> str:
    """The same in words, for the report."""
    capped = capped_rank(rank, layer)
    return f"rank {capped}" if capped == rank else f"rank {capped} (capped)"
