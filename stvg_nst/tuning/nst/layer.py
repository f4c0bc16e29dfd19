"""Eq. (1): a frozen linear layer with a residual on its input, of which its null space lets one part pass unseen."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from stvg_nst.models.base import TokenGrid
from stvg_nst.nullspace import weight_matrix
from stvg_nst.tuning.base import TunedLinear
from stvg_nst.tuning.nst.coefficients import Coefficients, spread
from stvg_nst.tuning.nst.reference import CallRecord, ForwardState, ReferenceBank, frames_with_tokens
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization
from stvg_nst.tuning.nst.unit import QualityAdaptiveUnit

Gate = Literal["soft", "hard", "oracle", "open"]
ForwardMode = Literal["separate", "literal"]


class NullSpaceLinear(TunedLinear):
    """A frozen linear layer, or 1 x 1 convolution, under null-space tuning.

    In a grounder it takes (B, F, d_in) or (B, F, N, d_in); in any other model whatever leads with the sample.

    Args:
        base_layer: the frozen layer.
        name: its name in the model, for messages and records.
        unit, dual_space: Sec. III-C and III-D.
        gate, forward_mode: as in :class:`stvg_nst.tuning.NullSpaceTuning`.
        state: shared by all wrapped layers of a model.
    """

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
        """Drop what inference can do without: the null branch, where none of it reaches the output."""
        self.forward_mode = "separate"
        self.unit.fold(keeps_null=self.dual_space.leaks)

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
        grid = bank.grid_of(x, self.name)
        mask, gate = grid.mask, self._known_gate(grid)
        # A router of the layer's own has to see all clips, whatever gate is forced upon it.
        skips = self._hard and self.forward_mode == "separate" and self.unit.router is None
        # Which clips are open is data, and a program of `torch.export` has no branches by data.
        if gate is not None and skips and not torch.compiler.is_exporting():
            return self._forward_open_clips(x, bank, grid, gate)

        found = self.unit(x, bank, mask)
        logits = self._shared_logits(grid) if found.logits is None else found.logits
        if gate is None:
            assert found.logits is not None, "without a gate from elsewhere a unit has a router of its own"
            gate = found.logits.sigmoid().round() if self._hard else found.logits.sigmoid()
        self._record(found.row, found.null, logits, gate, mask)

        strength = spread(gate, x).to(found.row.hidden.dtype)
        if self.forward_mode == "literal":
            y = self._frozen(x + self.dual_space.residual(strength, found.row, found.null))  # Eq. (1)
        else:  # Eq. (1), the null term dropped
            y = self._frozen(x) + self.dual_space.image(self.weight_matrix, strength, found.row, found.null)
        # A leak or a rounded sum would reach the clips that a hard gate closes on, too.
        return torch.where(spread(_any_open(gate, mask), x), y, self._frozen(x)) if self._hard else y

    def _forward_open_clips(self, x: Tensor, bank: ReferenceBank, grid: TokenGrid, gate: Tensor) -> Tensor:
        """The frozen layer, and the residual of those clips only whose gate, known beforehand, is not closed.

        A closed gate leaves no null term either where the null space is exact; where it leaks, the leak is skipped too.
        """
        y, mask, logits = self._frozen(x), grid.mask, self._shared_logits(grid)
        clips = _any_open(gate, mask).nonzero().squeeze(1)
        if not len(clips):
            self._record(self.unit.of_no_clip(x), None, logits, gate, mask, clips)
            return y
        found = self.unit(x[clips], bank.of_clips(clips), mask[clips])
        self._record(found.row, found.null, logits, gate, mask, clips)
        strength = spread(gate[clips], x).to(found.row.hidden.dtype)
        image = self.dual_space.image(self.weight_matrix, strength, found.row, found.null)
        return y.index_add(0, clips, image.expand_as(y[clips]).to(y.dtype))

    def _record(
        self,
        row: Coefficients,
        null: Coefficients | None,
        logits: Tensor | None,
        gate: Tensor,
        mask: Tensor,
        clips: Tensor | None = None,
    ) -> None:
        call = CallRecord(row, null, logits, gate, mask, self.dual_space, self.weight_matrix, clips)
        self.state.record(self.name, call)

    def _shared_logits(self, grid: TokenGrid) -> Tensor | None:
        """The shared router's, (B,), or (B, F) where there is one a frame; ``None`` without such a router."""
        logits = self.state.shared_logits
        return None if logits is None else grid.along_frames(logits)

    def _known_gate(self, grid: TokenGrid) -> Tensor | None:
        """g where it does not depend on this layer's input: forced from outside, always open, or the shared router's.

        (B,), or (B, F) if there is one a frame.
        """
        clips, device = len(grid.mask), grid.mask.device
        if (known := self.state.known_gate(training=self.training)) is not None:
            value = torch.as_tensor(known, dtype=torch.float32, device=device)
            return value.expand(clips) if value.ndim == 0 else grid.along_frames(value)
        if self.gate == "open":
            return torch.ones(clips, device=device)
        if self.gate == "oracle":
            raise RuntimeError(
                f"the gate of '{self.name}' is the quality label, and none was given; run the forward inside "
                "tuner.conditioned_on(qualities)"
            )
        routed = self.state.routed_gate(hard=self._hard)
        return None if routed is None else grid.along_frames(routed)

    @property
    def _hard(self) -> bool:
        return self.gate == "hard" and not self.training


def _any_open(gate: Tensor, mask: Tensor) -> Tensor:
    """(B,), the clips of a gate (B,) or (B, F) that is open in any real frame; ``mask`` is that of the tokens."""
    return gate.bool() if gate.ndim == 1 else (gate.bool() & frames_with_tokens(mask)).any(dim=1)
