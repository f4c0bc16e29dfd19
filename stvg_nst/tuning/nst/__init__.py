"""Null-space tuning: the paper's method, equations (1) to (7), one file for each of its parts.

A frozen layer ``y = W x + b`` gets a residual dx on its input. What lies in the null space of W never reaches y. What
lies in its row space does. A quality gate sends the residual of a high-quality clip to the null space and that of a
low-quality clip to the row space. The paper's equations are reconstructed: see docs/paper_map.md.

Read the files in this order:

1. ``layer.py``: the tuned layer, eq. (1).
2. ``reference.py``: the reference bank, eq. (2), and what travels through a forward.
3. ``unit.py``: the quality-adaptive unit, which retrieves, eq. (3), proposes coefficients, eq. (4), and routes.
   ``coefficients.py`` is how they are kept: as a product of small matrices and long activations.
4. ``residual.py``: the dual-space reparameterisation, eq. (5).
   ``router.py`` is the one router that may serve all layers, ahead of them.
5. ``objective.py``: the router's loss and the regulariser, eqs. (6) and (7).
6. ``controls.py``: the method without its null space.
7. ``options.py`` and ``injection.py``: what a recipe chooses, and how the parts are put into a frozen model.
8. ``certify.py``: what is left of the frozen model.

The split of a weight into row and null space, Sec. III-B, is :mod:`stvg_nst.nullspace`. What clean clips leave unused
of a layer's input, which a row branch may read instead, is :mod:`stvg_nst.tuning.hq_null`.

Shapes follow :mod:`stvg_nst.types`; besides, d_in and d_out are a layer's sizes, and "..." are the token axes of a
layer's input, (T,) or (T, M).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from stvg_nst.models.base import Grounder
from stvg_nst.tuning.base import CleanBatch, LayerReport, TunedLinear
from stvg_nst.tuning.clean_inputs import measure_clean_inputs
from stvg_nst.tuning.hq_null import HQNullSpace, measure_null_spaces
from stvg_nst.tuning.nst.injection import put_router, wrap_layers
from stvg_nst.tuning.nst.layer import NullSpaceLinear
from stvg_nst.tuning.nst.objective import describe_calls, null_leak, router_loss, subspace_regulariser, verdict_of
from stvg_nst.tuning.nst.options import NullSpaceOptions
from stvg_nst.tuning.nst.reference import ForwardState, ReferenceTokens, find_reference
from stvg_nst.tuning.nst.routed import RoutedTuner
from stvg_nst.tuning.nst.unit import HQNullMlp
from stvg_nst.types import Quality

__all__ = ["NullSpaceLinear", "NullSpaceTuning", "ReferenceTokens"]


@dataclass
class NullSpaceTuning(NullSpaceOptions, RoutedTuner):
    """Null-space tuning (NST) of the layers that match ``targets``."""

    _state: ForwardState = field(default_factory=ForwardState, init=False, repr=False, compare=False)
    _leakage: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _folded: bool = field(default=False, init=False, repr=False, compare=False)

    # --- injection ----------------------------------------------------------------------------------------------------

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        bank_width, _ = self._reference_of(grounder)
        wrapped, reports = wrap_layers(self, grounder, bank_width, self._state)
        self._leakage = {report.name: report.leakage for report in reports}
        return wrapped, reports

    def _attach(self, grounder: nn.Module) -> None:
        width, source = self._reference_of(grounder)
        self._state.watch(source, width)
        if self.routes_ahead:
            assert isinstance(grounder, Grounder), "no other model has a place ahead of its layers"
            put_router(self, grounder, source, per=self.gate_per, coefficients_from=self.coefficients_from)

    def _reference_of(self, model: nn.Module) -> tuple[int, nn.Module]:
        return find_reference(model, self.reference, routed_ahead=self.router == "shared", per=self.gate_per)

    # --- calibration --------------------------------------------------------------------------------------------------

    @property
    def clean_clips(self) -> int:
        return self.calibration_clips if self.row_input == "hq_null" else 0

    def is_calibrated(self, grounder: nn.Module) -> bool:
        return all(space.is_measured for space in _hq_null_spaces(grounder).values())

    def calibrate(
        self, grounder: nn.Module, batches: Iterable[CleanBatch], forward: Callable[[CleanBatch], object]
    ) -> None:
        if not (spaces := _hq_null_spaces(grounder)):
            return
        layers = {layer.name: layer for layer in _wrapped_layers(grounder)}
        with self.bypass():
            clean = measure_clean_inputs(grounder, layers, batches, forward)
        measure_null_spaces(spaces, clean, self.hq_energy)

    # --- training -----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {"router": self.lambda_router, "reg": self.lambda_reg, "leak": self.lambda_leak}
        return {name: weights[name] for name in self._terms}  # Eq. (6), beside L_ground with weight 1

    @property
    def _terms(self) -> tuple[str, ...]:
        return (*(("router",) if self.routes else ()), "reg", *(("leak",) if self.lambda_leak else ()))

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """``router``, ``reg`` and ``leak`` of the last forward, as far as the options have them.

        Unweighted float32 scalars, averaged over the wrapped layers.

        Args:
            qualities: (B,), y_q: 0 for high and 1 for low quality.

        Raises:
            ValueError: there is not one quality for each clip of the last forward.
            RuntimeError: a wrapped layer did not run, a hard gate skipped clips of it, or its graph is gone although
                gradients are enabled.
        """
        labels, clips = qualities.float(), [(qualities == quality).nonzero().squeeze(1) for quality in Quality]
        functions = {
            "router": lambda call: router_loss(call.logits, labels, call.frame_mask),
            "reg": lambda call: subspace_regulariser(call, *clips),
            "leak": null_leak,
        }
        layers = self._state.read(tuple(self._leakage), close=True)
        for layer, calls in layers.items():
            for call in calls:
                if qualities.shape != (len(call.mask),):
                    raise ValueError(
                        f"expected the quality of each of the {len(call.mask)} clips that '{layer}' was shown in the "
                        f"last forward, got {tuple(qualities.shape)}; the first axis of its input must be that of the "
                        "clips"
                    )
                if call.clips is not None:
                    raise RuntimeError(
                        f"a hard gate skipped clips in the last forward of '{layer}', and what was not computed has no "
                        f"loss; call set_training(model, True) ahead of the forward"
                    )
                if torch.is_grad_enabled() and not call.row.hidden.requires_grad:
                    raise RuntimeError(
                        f"the last forward of '{layer}' kept no graph to train by; run it with gradients enabled, and "
                        f"under gradient checkpointing pass use_reentrant=False"
                    )
        return {
            term: torch.stack(
                [torch.stack([functions[term](call) for call in calls]).mean() for calls in layers.values()]
            ).mean()
            for term in self._terms
        }

    def conditioned_on(self, qualities: Tensor) -> AbstractContextManager[None]:
        if self.gate == "oracle":
            return self.override_gate(qualities.float())
        if self.gate_training == "label":
            labels = qualities.float()
            return self._state.teaching_gate((labels - self.gate_jitter * torch.rand_like(labels)).abs())
        return nullcontext()

    # --- inspection ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """Of the last forward, by layer, float32; means over the calls of a layer that is called more than once.

        ``gate`` and ``router`` are (B,): the gate as applied and as the router would have it, means over real frames.
        ``row_energy`` and ``null_energy`` are scalars: the mean squared norm, over real tokens, of the two parts of the
        residual dX behind the gate (0 without a null branch); ``row_share`` is the row part's share of both, and
        ``row_share_before`` that of the coefficients before the gate. ``leakage`` is the worst case of the layer's null
        space.
        """
        values: dict[str, Tensor] = {}
        for layer, calls in self._state.read(tuple(self._leakage), close=False).items():
            found = describe_calls(calls) | {"leakage": torch.tensor(self._leakage[layer], device=calls[0].gate.device)}
            values |= {f"{quantity}/{layer}": value for quantity, value in found.items()}
        return values

    @torch.no_grad()
    def verdicts(self) -> Tensor | None:
        """The mean over real frames where each has a gate of its own, and over the layers' routers."""
        if self.router == "shared":
            return super().verdicts()
        layers = self._state.read(tuple(self._leakage), close=False)
        said = [verdict for calls in layers.values() if (verdict := verdict_of(calls)) is not None]
        return torch.stack(said).mean(0) if said else None

    @property
    def hard(self) -> bool:
        return self.gate == "hard"

    @property
    def has_one_hard_gate(self) -> bool:
        return self.hard and self.router == "shared" and self.gate_per == "clip"

    def override_gate(self, value: float | Tensor | None) -> AbstractContextManager[None]:
        """Force the gate of every wrapped layer: 0 is the certificate that the pre-trained function is preserved.

        Args:
            value: in [0, 1]; a number, (B,), or (B, T) with a gate a frame; ``None`` leaves the router in charge.
        """
        return self._state.forcing_gate(value)

    def fold(self, grounder: nn.Module) -> None:
        """Drop what inference can do without, in place: the same outputs for less, and no more training or saving.

        The null branch goes where the null space is exact; a leak is part of the function, and stays.

        Raises:
            RuntimeError: this tuner is not injected into the model.
        """
        layers = _wrapped_layers(grounder)
        if {layer.name for layer in layers} != set(self._leakage) or not layers:
            raise RuntimeError(
                f"expected the model that this tuner was injected into, with {len(self._leakage)} wrapped layers, got "
                f"one with {len(layers)}; inject it, and load an adapter, before folding"
            )
        for layer in layers:
            layer.fold()
        grounder.requires_grad_(False)
        self._folded = True

    def check_saveable(self) -> None:
        if self._folded:
            raise RuntimeError("a folded model has no adapter to save any more; save it before folding")

    def set_training(self, grounder: nn.Module, mode: bool) -> None:
        if mode and self._folded:
            raise RuntimeError(
                "a folded model has nothing to train any more; build the model and the tuner anew, load the adapter "
                "that was saved before folding, and train that"
            )
        super().set_training(grounder, mode)

    def bypass(self) -> AbstractContextManager[None]:
        """Run the frozen model as if nothing had been injected: what a certificate compares with."""
        return self._state.bypassing()


def _wrapped_layers(model: nn.Module) -> list[NullSpaceLinear]:
    return [module for module in model.modules() if isinstance(module, NullSpaceLinear)]


def _hq_null_spaces(model: nn.Module) -> dict[str, HQNullSpace]:
    """By layer; empty where no row branch reads its input through one, or the model is folded."""
    heads = {layer.name: layer.unit.row_head for layer in _wrapped_layers(model)}
    return {name: head.space for name, head in heads.items() if isinstance(head, HQNullMlp) and head.space is not None}
