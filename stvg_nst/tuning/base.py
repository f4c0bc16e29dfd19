"""The contract of a tuning method: freeze a model, wrap some of its linear layers, and say what was done."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from stvg_nst.nullspace import measure_spectrum
from stvg_nst.types import BackboneFeatures

CleanBatch = TypeVar("CleanBatch", bound=Sized)


class TuningModule(nn.Module):
    """Something that a tuner put into a frozen model; by this type it is told from what was there before."""

    later_buffers: ClassVar[frozenset[str]] = frozenset()
    """Buffers that older adapters and checkpoints do not hold; there they have the value they are made with."""


class TunedLayer(TuningModule):
    """A frozen part of a model with something trainable around it."""

    moving_buffers: ClassVar[frozenset[str]] = frozenset()
    """Buffers that training moves without a gradient; all others stay what they were at injection."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    def merged(self) -> nn.Module:
        """A new plain layer that computes what this one does at inference.

        Raises:
            ValueError: there is none, because what is added depends on the input by more than a matrix.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be merged: what it adds is no fixed matrix times its input; keep the "
            f"adapter beside the frozen weight"
        )


class TunedLinear(TunedLayer):
    """A frozen linear layer, or a 1 x 1 convolution, with something trainable around it.

    There is no ``weight`` attribute, on purpose: code that reads a layer's weight instead of calling the layer
    would bypass the adapter in silence, and so it fails instead.
    """


@dataclass(frozen=True, slots=True)
class LayerReport:
    """A wrapped layer and the geometry of its frozen weight.

    Args:
        name: qualified name in the model.
        shape: (d_out, d_in).
        rank, nullity: dimensions of the weight's row and null space; they add up to d_in.
        leakage: the most of a unit vector of the null space that reaches the output.
        adapter: what was put there, in a few words.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    nullity: int
    leakage: float
    adapter: str

    @classmethod
    def of(cls, name: str, layer: nn.Linear, adapter: str) -> LayerReport:
        """The report of a layer whose tuner does not need the bases."""
        spectrum = measure_spectrum(layer.weight)
        return cls(
            name=name,
            shape=spectrum.shape,
            rank=spectrum.rank,
            nullity=spectrum.nullity,
            leakage=spectrum.sigma_next,
            adapter=adapter,
        )


@dataclass(frozen=True, slots=True)
class InjectionReport:
    """What a tuner did to a model; ``str()`` of it is a table for the log.

    Args:
        method: class name of the tuner.
        layers: the wrapped linear layers.
        trainable, total: numbers of parameters after injection, the adapters' included.
        parts: what is tuned beside these layers, in words.
    """

    method: str
    layers: tuple[LayerReport, ...]
    trainable: int
    total: int
    parts: tuple[str, ...] = ()

    @property
    def leakage(self) -> float:
        """The worst of all layers."""
        return max((layer.leakage for layer in self.layers), default=0.0)

    @property
    def title(self) -> str:
        """The whole of it in one line."""
        leakage = f", worst leakage {self.leakage:.1e}" if self.layers else ""
        return (
            f"{self.method}: {len(self.layers)} tuned layers, {self.trainable:,} of {self.total:,} parameters "
            f"trainable ({self.trainable / max(self.total, 1):.2%}){leakage}"
        )

    def folded(self) -> str:
        """The table with one line for all layers whose names differ in numbers only; ranges where they differ."""
        groups: dict[str, list[LayerReport]] = defaultdict(list)
        for layer in self.layers:
            groups[re.sub(r"(?<=\.)\d+(?=\.|$)", "*", layer.name)].append(layer)
        width = max((len(name) for name in groups), default=0)
        lines = []
        for name, layers in groups.items():
            out = _range(layer.shape[0] for layer in layers)
            inside = _range(layer.shape[1] for layer in layers)
            nullity = _range(layer.nullity for layer in layers)
            lines.append(f"  {name:<{width}}  {len(layers):>3} of {out} x {inside}, nullity {nullity}")
        return "\n".join([self.title, *lines, *(f"  {part}" for part in self.parts)])

    def __str__(self) -> str:
        if not self.layers:
            return "\n".join([self.title, *(f"  {part}" for part in self.parts)])
        width = max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [f"  {'layer':<{width}}  {'weight':>12}  {'rank':>5}  {'nullity':>7}  {'leakage':>8}  adapter"]
        for layer in self.layers:
            weight = "{} x {}".format(*layer.shape)
            lines.append(
                f"  {layer.name:<{width}}  {weight:>12}  {layer.rank:>5}  {layer.nullity:>7}  "
                f"{layer.leakage:>8.1e}  {layer.adapter}"
            )
        lines += [f"  {part}" for part in self.parts]
        return "\n".join([self.title, *lines])


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}"


def _refuse_layers_read_around_their_forward(model: nn.Module, wrapped: Mapping[nn.Module, nn.Module]) -> None:
    """PyTorch's own attention computes with the weights of layers that it never calls, and so around any wrapper.

    Raises:
        ValueError: one of these layers is to be tuned.
    """
    for name, module in model.named_modules():
        read: tuple[str, ...] = ()
        advice = "write the attention of layers that are called, as stvg_nst.models.blocks.layers.Attention is"
        if isinstance(module, nn.MultiheadAttention):
            read = ("out_proj",)
        elif isinstance(module, nn.TransformerEncoderLayer) and torch.backends.mha.get_fastpath_enabled():
            read, advice = ("linear1", "linear2"), "call torch.backends.mha.set_fastpath_enabled(False) first"
        for child in read:
            if getattr(module, child) in wrapped:
                raise ValueError(
                    f"'{name}{'.' * bool(name)}{child}' cannot be tuned: nn.{type(module).__name__} reads its weight "
                    f"and does not call it; {advice}, or take it out of the targets"
                )


class Tuner(ABC):
    """A recipe that adapts a frozen model; null-space tuning and every baseline stand behind this interface.

    Children are dataclasses whose fields are the recipe's options. This base is none, because jsonargparse refuses to
    switch between subclasses of a dataclass.
    """

    free_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that may differ between the tuner that saved an adapter and the one that loads it."""

    _injected: bool = False

    def inject(self, grounder: nn.Module) -> InjectionReport:
        """Freeze the whole model, put it in eval mode for good, and wrap the target layers, in place.

        The model is left as it was where this raises.

        Raises:
            ValueError: a target or an option does not fit the model.
            RuntimeError: this tuner was injected before, or the model already carries adapters.
        """
        if self._injected:
            raise RuntimeError(
                f"this {type(self).__name__} is already injected into a model; make a new one for another"
            )
        if carried := [name for name, module in grounder.named_modules() if isinstance(module, TuningModule)]:
            raise RuntimeError(f"expected a model without adapters, got one at '{carried[0]}'; build the model anew")
        if below := [f"{name} {weight}" for name, weight in self.loss_weights.items() if not weight >= 0]:
            raise ValueError(
                f"a weight below 0 would have {type(self).__name__} raise a loss that it is to lower, got "
                f"{', '.join(below)}; give it at least 0"
            )
        wrapped, layers = self._wrap(grounder)
        _refuse_layers_read_around_their_forward(grounder, wrapped)
        self._injected = True
        grounder.requires_grad_(False)
        replace_modules(grounder, wrapped)
        self._attach(grounder)
        grounder.eval()
        return InjectionReport(
            method=type(self).__name__,
            layers=layers,
            trainable=sum(parameter.numel() for parameter in self.trainable_parameters(grounder)),
            total=sum(parameter.numel() for parameter in grounder.parameters()),
            parts=self.parts,
        )

    @abstractmethod
    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        """Build, but do not yet insert, the wrapper of each target layer; raise before anything is changed.

        Returns:
            The wrappers by what they replace, and a report of each that wraps a linear layer.
        """

    @property
    def parts(self) -> tuple[str, ...]:
        """What is tuned beside linear layers, in words for the report."""
        return ()

    def _attach(self, grounder: nn.Module) -> None:  # noqa: B027 (a hook; most tuners need none)
        """Put whatever belongs to no single layer into the frozen model, once the layers are wrapped."""

    @property
    def clean_clips(self) -> int:
        """How many clean clips of the tuning set :meth:`calibrate` asks for; 0 where the tuner needs none."""
        return 0

    def is_calibrated(self, grounder: nn.Module) -> bool:
        """Whether the injected model holds what :meth:`calibrate` leaves there; an adapter brings it along."""
        return True

    def calibrate(  # noqa: B027 (a hook; most tuners need none)
        self, grounder: nn.Module, batches: Iterable[CleanBatch], forward: Callable[[CleanBatch], object]
    ) -> None:
        """Take from clean clips what the recipe needs to know of them, once, before the first step.

        The result goes into parameters and buffers of the adapter, so that no test and no resumed training runs this.

        Args:
            grounder: the injected model in eval mode, untrained.
            batches: clean clips of the tuning set and no others, about :attr:`clean_clips` of them.
            forward: runs the model over a batch.

        Raises:
            ValueError: there is no clip, or the clips leave nothing to train.
        """

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each term of :meth:`auxiliary_losses` in the total objective."""
        return {}

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """Unweighted scalar losses of the last forward, beside the grounding loss; qualities is (B,), 0 HQ and 1 LQ."""
        return {}

    def check_saveable(self) -> None:  # noqa: B027 (a hook; most tuners need none)
        """Raise RuntimeError where what the tuner trained cannot be saved any more."""

    def conditioned_on(self, qualities: Tensor) -> AbstractContextManager[None]:
        """Around a forward of a batch whose quality labels (B,) are known: only a control may look at them."""
        return nullcontext()

    def after_step(self, grounder: nn.Module, step: int, total_steps: int) -> None:
        """What a recipe does once the optimiser has moved; the gradients of that step are still there.

        Called on every process, once a step of the optimiser and not once a batch: gradients may be gathered over
        several.

        Args:
            step: steps taken, this one included: 1 to ``total_steps``.
            total_steps: of the whole training, however often it is interrupted.
        """
        return None

    def after_averaging(self, grounder: nn.Module) -> None:  # noqa: B027 (a hook; most tuners need none)
        """Hold an average over steps, which is in the place of what was trained, to what each step was held to."""

    def training_state(self) -> dict[str, Tensor]:
        """What a resumed training needs beyond the parameters and buffers; it goes to checkpoints, not to adapters."""
        return {}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up a :meth:`training_state`.

        Raises:
            ValueError: it is not one of this tuner.
        """
        if state:
            raise ValueError(
                f"{type(self).__name__} keeps no state of its training, got {len(state)} tensors such as "
                f"'{next(iter(state))}'; resume with the configuration of the interrupted run"
            )

    def verdicts(self) -> Tensor | None:
        """How low a router holds the quality of each clip of the last forward to be, (B,) in [0, 1]; None without one.

        It is what the router says, before any threshold, whatever the gates were.
        """
        return None

    @property
    def has_one_hard_gate(self) -> bool:
        """Whether a clip meets all that was tuned, or none of it and so the frozen model, by one word of a router."""
        return False

    @property
    def learns_from_extra_clips(self) -> bool:
        """Whether a router can learn from clips of which nothing but their quality is known, by :meth:`extra_loss`."""
        return False

    def extra_loss(
        self, grounder: nn.Module, features: BackboneFeatures, frame_mask: Tensor, qualities: Tensor
    ) -> Tensor:
        """The router's loss, a scalar that is weighed like its term of :meth:`auxiliary_losses`.

        Args:
            features: of the frozen encoders.
            frame_mask: (B, T) bool, True on real frames.
            qualities: (B,), 0 HQ and 1 LQ.
        """
        raise NotImplementedError

    @property
    def calibrates_gate(self) -> bool:
        """Whether the end of a fit is to call :meth:`calibrate_gate`."""
        return False

    def opening_logits(self) -> Tensor:
        """Of each clip of the last forward, what decides whether a hard gate opens, (B,); the highest of its frames."""
        raise NotImplementedError

    def calibrate_gate(self, grounder: nn.Module, logits: Tensor) -> str:
        """Set the threshold of a hard gate, which is kept with the adapter.

        Args:
            logits: (N,), the :meth:`opening_logits` of N clean clips that nothing was trained on.

        Returns:
            Where the gate opens now, in words.
        """
        raise NotImplementedError

    def warn_of_uncalibrated_gate(self, grounder: nn.Module) -> None:  # noqa: B027 (a hook; most tuners have none)
        """Say so where a hard gate is about to answer before :meth:`calibrate_gate` has set its threshold.

        Warns:
            UserWarning: so.
        """

    def diagnostics(self) -> dict[str, Tensor]:
        """Small detached tensors of the last forward, for logging; keys are ``<quantity>/<layer>``."""
        return {}

    def set_training(self, grounder: nn.Module, mode: bool) -> None:
        """Give the adapters their mode and keep everything frozen in eval mode.

        Call it wherever ``grounder.train()`` would be called: dropout and batch statistics of a frozen model in train
        mode would change the very function that is to be preserved.

        Raises:
            RuntimeError: the tuner has yet to be calibrated, and a training would do nothing.
        """
        if mode and not self.is_calibrated(grounder):
            raise RuntimeError(
                f"{type(self).__name__} has not seen clean clips: call `calibrate` with {self.clean_clips} of them "
                "before training, or load a trained adapter"
            )
        grounder.eval()
        for module in grounder.modules():
            if isinstance(module, TuningModule):
                module.train(mode)
            if isinstance(module, TunedLayer):
                module.base_layer.eval()

    def trainable_parameters(self, grounder: nn.Module) -> list[nn.Parameter]:
        """What an optimiser may move, in the model's order."""
        return [parameter for parameter in grounder.parameters() if parameter.requires_grad]


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Swap layers for others under every name: a model may hold one shared layer in several places."""
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module in replacements:
            model.set_submodule(name, replacements[module])
