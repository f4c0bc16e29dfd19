"""Eq. (1): a frozen linear layer with a residual on its input, of which its null space lets one part pass unseen."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stvg_nst.nullspace import weight_matrix
from stvg_nst.tuning.base import TunedLinear
from stvg_nst.tuning.nst.folding import FoldedSpace, FoldedUnit, fold_layer
from stvg_nst.tuning.nst.reference import CallRecord, ForwardState, ReferenceBank, frames_with_tokens
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization
from stvg_nst.tuning.nst.unit import QualityAdaptiveUnit

Gate = Literal["soft", "hard", "oracle", "open"]
ForwardMode = Literal["separate", "literal"]


class NullSpaceLinear(TunedLinear):
    """A frozen linear layer, or 1 x 1 convolution, under null-space tuning.

    In a grounder it takes (B, T, d_in) or (B, T, M, d_in); in any other model whatever leads with the sample.

    Args:
        base_layer: the frozen layer.
        name: its name in the model, for messages and records.
        unit, dual_space: Sec. III-C and III-D.
        gate, forward_mode: as in :class:`stvg_nst.tuning.NullSpaceTuning`.
        state: shared by all wrapped layers of a model.
    """

    unit: QualityAdaptiveUnit | FoldedUnit
    dual_space: DualSpaceReparameterization | FoldedSpace

    def __init__(
        self,
        base_layer: nn.Module,
        *,
        name: str,
        unit: QualityAdaptiveUnit,
        dual_space: DualSpaceReparameterization,
        gate: Gate,
        forward_mode: ForwardMode,
        state: ForwardState,
    ) -> None:
        super().__init__(base_layer)
        self.name = name
        self.unit = unit
        self.dual_space = dual_space
        self.gate = gate
        self.forward_mode = forward_mode
        self.state = state

    def fold(self) -> None:
        """Drop or multiply out whatever inference can do without; what was trained cannot be had back from it."""
        if not isinstance(self.unit, QualityAdaptiveUnit) or isinstance(self.dual_space, FoldedSpace):
            raise RuntimeError(f"'{self.name}' is folded already")
        self.unit, self.dual_space = fold_layer(self.unit, self.dual_space, self.weight_matrix)
        self.forward_mode = "separate"

    @property
    def weight_matrix(self) -> Tensor:
        """The frozen W (d_out, d_in); not called ``weight``, which no wrapper has."""
        return weight_matrix(self.base_layer)

    def forward(self, x: Tensor) -> Tensor:
        if self.state.bypassed:
            return self.base_layer(x)
        if isinstance(self.base_layer, nn.Linear):
            return self._forward_tokens(x)
        return self._forward_tokens(x.movedim(1, -1)).movedim(-1, 1)

    def _frozen(self, x: Tensor) -> Tensor:
        """The frozen layer of tokens (B, ..., d_in)."""
        if isinstance(self.base_layer, nn.Linear):
            return self.base_layer(x)
        return self.base_layer(x.movedim(-1, 1)).movedim(1, -1)

    def _forward_tokens(self, x: Tensor) -> Tensor:
        bank = self.state.bank_for(self.name)
        mask = bank.mask_of(x, self.name)
        gate = self._known_gate(mask)
        # A router of the layer's own has to see all clips, whatever gate is forced upon it.
        routed = isinstance(self.unit, QualityAdaptiveUnit) and self.unit.router is not None
        hard = self.gate == "hard" and not self.training
        # Which clips are open is data, and a program of `torch.export` has no branches by data.
        if gate is not None and hard and not routed and not torch.compiler.is_exporting():
            return self._forward_open_clips(x, bank, mask, gate)

        found = self.unit(x, bank, mask)
        logits = self.state.shared_logits if found.logits is None else found.logits
        if gate is None:
            assert found.logits is not None, "without a gate from elsewhere a unit has a router of its own"
            gate = found.logits.sigmoid().round() if self._hard else found.logits.sigmoid()
        self._record(found.row, found.null, logits, gate, mask)

        spread = _spread(gate, x).to(found.row.dtype)
        if self.forward_mode == "literal":
            assert isinstance(self.dual_space, DualSpaceReparameterization), "folding turns the literal form off"
            y = self._frozen(x + self.dual_space.residual(spread, found.row, found.null))  # Eq. (1)
        else:  # Eq. (1), the null term dropped
            y = self._frozen(x) + self.dual_space.image(self.weight_matrix, spread, found.row, found.null)
        # A leak or a rounded sum would reach the clips that a hard gate closes on, too.
        return torch.where(_spread(_any_open(gate, mask), x), y, self._frozen(x)) if hard else y

    def _forward_open_clips(self, x: Tensor, bank: ReferenceBank, mask: Tensor, gate: Tensor) -> Tensor:
        """The frozen layer, and the residual of those clips only whose gate, known beforehand, is not closed.

        A closed gate leaves no null term either where the null space is exact; where it leaks, the leak is skipped too.
        """
        y, logits = self._frozen(x), self.state.shared_logits
        clips = _any_open(gate, mask).nonzero().squeeze(1)
        if not len(clips):
            self._record(x.new_zeros(0, *x.shape[1:-1], self.unit.row_rank), None, logits, gate, mask, clips)
            return y
        found = self.unit(x[clips], bank.of_clips(clips), mask[clips])
        self._record(found.row, found.null, logits, gate, mask, clips)
        spread = _spread(gate[clips], x).to(found.row.dtype)
        image = self.dual_space.image(self.weight_matrix, spread, found.row, found.null)
        return y.index_add(0, clips, image.expand_as(y[clips]).to(y.dtype))

    def _record(
        self,
        row: Tensor,
        null: Tensor | None,
        logits: Tensor | None,
        gate: Tensor,
        mask: Tensor,
        clips: Tensor | None = None,
    ) -> None:
        if isinstance(self.dual_space, DualSpaceReparameterization):  # a folded layer has no coefficients to keep
            self.state.record(
                self.name, CallRecord(row, null, logits, gate, mask, self.dual_space, self.weight_matrix, clips)
            )

    def _known_gate(self, mask: Tensor) -> Tensor | None:
        """g where it does not depend on this layer's input: forced from outside, always open, or the shared router's.

        (B,), or (B, T) if there is one a frame.
        """
        if (forced := self.state.known_gate) is not None:
            value = torch.as_tensor(forced, dtype=torch.float32, device=mask.device)
            return value.expand(len(mask)) if value.ndim == 0 else value
        if self.gate == "open":
            return torch.ones(len(mask), device=mask.device)
        if self.gate == "oracle":
            raise RuntimeError(
                f"the gate of '{self.name}' is the quality label, and none was given; run the forward inside "
                "tuner.conditioned_on(qualities)"
            )
        return self.state.routed_gate(hard=self._hard)

    @property
    def _hard(self) -> bool:
        return self.gate == "hard" and not self.training


def _spread(gate: Tensor, x: Tensor) -> Tensor:
    """A gate (B,) or (B, T) with axes of size 1 behind it, to broadcast over coefficients of x (B, ..., d)."""
    return gate.reshape(gate.shape + (1,) * (x.ndim - gate.ndim))


def _any_open(gate: Tensor, mask: Tensor) -> Tensor:
    """(B,), the clips of a gate (B,) or (B, T) that is open in any real frame; ``mask`` is that of the tokens."""
    return gate.bool() if gate.ndim == 1 else (gate.bool() & frames_with_tokens(mask)).any(dim=1)
