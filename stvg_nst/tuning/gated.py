"""One router ahead of the tuned layers, for any method: what it says of a clip decides what these layers do to it.

The router is the one of null-space tuning (:class:`stvg_nst.tuning.nst.router.SharedRouter`). It reads what the frozen
model makes of a clip, which no gate has touched, and learns from the quality labels. In training the label is the gate
of the tuned layers, and no error of the router reaches them. In validation and test the router decides, and no label is
read.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from stvg_nst.models.base import Grounder
from stvg_nst.tuning.base import TunedLayer
from stvg_nst.tuning.nst.injection import check_router, put_router
from stvg_nst.tuning.nst.objective import router_loss
from stvg_nst.tuning.nst.options import RouterOptions
from stvg_nst.tuning.nst.reference import ForwardState, find_reference
from stvg_nst.tuning.nst.routed import RoutedTuner

# What the router says is logged under the name of the place where a grounder calls it.
ROUTER = "reference_point"


class GatedLayer(TunedLayer):
    """A frozen layer beside something tuned, of which each clip gets as much as its gate says.

    Args:
        base_layer: called on an input whose first axis is the clip.
        name: its name in the model, for messages.
        hard: whether the router's word is rounded.
        state: of the model's router, shared by all gated layers.
    """

    def __init__(self, base_layer: nn.Module, *, name: str, hard: bool, state: ForwardState) -> None:
        super().__init__(base_layer)
        self.name = name
        self.hard = hard
        self.state = state

    def gate(self, x: Tensor) -> Tensor:
        """(B,) float32 in [0, 1]: 0 where a clip of x (B, ...) gets the frozen layer alone.

        Raises:
            ValueError: the layer ran ahead of the router, or its input does not lead with the clips.
        """
        if self.state.shared_logits is None:
            raise ValueError(
                f"'{self.name}' runs ahead of the router, which reads what becomes of its output, so no gate can "
                "choose there; tune what lies behind it, such as experiments/scope/encoder_modules.yaml"
            )
        gate = self.state.applied_gate = self._gate_of_clips()
        if len(gate) != len(x):
            raise ValueError(
                f"the input of '{self.name}' must have the {len(gate)} clips on its first axis, got {tuple(x.shape)}; "
                "take the layer out of what is tuned"
            )
        return gate

    def _gate_of_clips(self) -> Tensor:
        """The gate that is forced upon the forward, or taught in training, else what its router says."""
        logits = self.state.shared_logits
        assert logits is not None, "a gated method has a shared router"
        if (known := self.state.known_gate(training=self.training)) is not None:
            return torch.as_tensor(known, dtype=torch.float32, device=logits.device).expand_as(logits)
        routed = self.state.routed_gate(hard=self.hard)
        assert routed is not None, "there are logits"
        return routed


@dataclass(kw_only=True)
class GatedTuner(RouterOptions, RoutedTuner):
    """A method whose layers are gated by a router, which learns from the quality labels."""

    free_fields: ClassVar[frozenset[str]] = RouterOptions.free_fields
    _state: ForwardState = field(default_factory=ForwardState, init=False, repr=False, compare=False)

    @property
    def hard(self) -> bool:
        return True

    @property
    def has_one_hard_gate(self) -> bool:
        return self.hard

    def check_router(self, grounder: nn.Module) -> None:
        """Refuse a model that has no place for a router, none of this size, or nothing for it to read.

        Raises:
            ValueError: so.
        """
        if not isinstance(grounder, Grounder):
            raise ValueError(
                f"{type(self).__name__} needs a Grounder, whose reference point its router is put at, got "
                f"{type(grounder).__name__}; tune another model by a method without a router, such as LoRA"
            )
        bank_width, _ = find_reference(grounder, None, routed_ahead=True, per="clip")
        self.width(bank_width)
        check_router(self, grounder)

    def _attach(self, grounder: nn.Module) -> None:
        width, point = find_reference(grounder, None, routed_ahead=True, per="clip")
        self._state.watch(point, width)
        assert isinstance(grounder, Grounder), "no other model has a reference point"
        put_router(self, grounder, point, per="clip", coefficients_from="reference")

    def _gate_in_training(self, labels: Tensor) -> Tensor:
        """The gates (B,) that the layers learn with, of labels (B,), 0 for high and 1 for low quality."""
        return labels

    def conditioned_on(self, qualities: Tensor) -> AbstractContextManager[None]:
        return self._state.teaching_gate(self._gate_in_training(qualities.float()))

    def override_gate(self, value: float | Tensor | None) -> AbstractContextManager[None]:
        """Force the gate of every layer to a number or (B,) in [0, 1]; ``None`` leaves the router in charge."""
        return self._state.forcing_gate(value)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"router": self.lambda_router}

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """``router`` of the last forward: its cross-entropy with the labels (B,), eq. (6)."""
        return {"router": router_loss(self._said, qualities.float(), self._frame_mask)}

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """Of the last forward, (B,): ``gate`` as applied, and ``router`` as the router would have it."""
        said = self._said.sigmoid()
        gate = self._state.applied_gate
        assert gate is not None, "a gated layer has run"
        return {f"gate/{ROUTER}": gate.detach(), f"router/{ROUTER}": said}

    @property
    def _said(self) -> Tensor:
        """The router's logits (B,) of the last forward."""
        if (logits := self._state.shared_logits) is None:
            raise RuntimeError(f"{type(self).__name__} has seen no forward yet; call the grounder first")
        return logits
