"""Null-space tuning: the paper's method, equations (1) to (7).

A frozen layer ``y = W x + b`` gets a residual dx on its input. What lies in the null space of W never reaches y; what
lies in its row space does. A quality gate sends the residual of a high-quality clip to the former and that of a
low-quality clip to the latter. The paper's equations are reconstructed: see docs/paper_map.md. Eq. (2), the reference
bank, is in ``reference.py``, eqs. (3) and (4) in ``qau.py``, eq. (5) in ``dual_space.py``, eqs. (6) and (7) in
``objective.py``; eq. (1) is :meth:`NullSpaceLinear.forward`.

Shapes follow :mod:`stvg_nst.types`; besides, d_in and d_out are a layer's sizes, and "..." are the token axes of a
layer's input, (T,) or (T, M).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from stvg_nst.dual_space_store import DualSpaceStore
from stvg_nst.models.base import Grounder, ReferencePoint
from stvg_nst.nullspace import DualSpace, RankRule, split_dual_space, weight_matrix
from stvg_nst.seeding import derive_seed
from stvg_nst.tuning.base import LayerReport, TunedLinear, Tuner
from stvg_nst.tuning.dual_space import Basis, DualSpaceReparameterization
from stvg_nst.tuning.folding import FoldedSpace, FoldedUnit, fold_layer
from stvg_nst.tuning.objective import null_leak, per_clip, residual_energies, router_loss, subspace_regulariser
from stvg_nst.tuning.qau import CoefficientsFrom, CoefficientsPer, GatePer, QualityAdaptiveUnit, SharedRouter
from stvg_nst.tuning.reference import CallRecord, ForwardState, ReferenceBank, frames_with_tokens
from stvg_nst.tuning.selection import Strategy, select_layers

Gate = Literal["soft", "hard", "oracle", "open"]
RouterPlace = Literal["layer", "shared"]
ForwardMode = Literal["separate", "literal"]

# Enough for eq. (7) to have something to shrink, too little to matter where a null space is exact.
NULL_HEAD_STD = 1e-2


@dataclass(frozen=True)
class ReferenceTokens:
    """Where the reference of a model that is no :class:`stvg_nst.models.base.Grounder` comes from.

    Args:
        module: name of the sub-module whose output, tokens (B, N, D) or maps (B, D, ...), is the bank of eq. (2)
            beside its mean. It must run ahead of every tuned layer, and lie upstream of all of them.
        width: D.
    """

    module: str
    width: int


class NullSpaceLinear(TunedLinear):
    """A frozen linear layer, or 1 x 1 convolution, under null-space tuning.

    In a grounder it takes (B, T, d_in) or (B, T, M, d_in); in any other model whatever leads with the sample.

    Args:
        base_layer: the frozen layer.
        name: its name in the model, for messages and records.
        unit, dual_space: Sec. III-C and III-D.
        gate, forward_mode: as in :class:`NullSpaceTuning`.
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
        if gate is not None and hard and not routed:
            return self._forward_open_clips(x, bank, mask, gate)

        found = self.unit(x, bank, mask)
        logits = self.state.shared_logits if found.logits is None else found.logits
        if gate is None:
            assert found.logits is not None, "without a gate from elsewhere a unit has a router of its own"
            gate = self._gate_of(found.logits)
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
        return None if self.state.shared_logits is None else self._gate_of(self.state.shared_logits)

    def _gate_of(self, logits: Tensor) -> Tensor:
        """g, 0 for high and 1 for low quality; the shape of the logits."""
        gate = logits.sigmoid()
        return gate.round() if self.gate == "hard" and not self.training else gate


@dataclass
class NullSpaceTuning(Tuner):
    """Null-space tuning (NST) of the layers that match ``targets``."""

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``decoder.*.linear2``. With strategy ``all`` each must match
    linear layers only; the other strategies choose from all linear layers in what the patterns name."""

    strategy: Strategy = "all"
    """Which of the targets are tuned: all, a share of the lowest or the highest rank ratio, a random share, or those
    with an exact null space."""

    share: float = 0.1
    """Of the targets, for the strategies that take a share."""

    exclude: Sequence[str] = field(default_factory=list)
    """Patterns of layers or whole modules that are no targets though a pattern matches them."""

    rank: int = 64
    """Directions of each subspace that a layer may use; fewer where a subspace has fewer. The paper uses 64."""

    retrieval_width: int | None = None
    """Width that the reference is retrieved at, eq. (3); the grounding model's if not given. Retrieval is most of the
    method's cost, and falls in proportion."""

    heads: int = 4
    """Heads of the cross-attention to the reference bank."""

    hidden: int | None = None
    """Hidden width of the coefficient heads and the router; the width of retrieval if not given."""

    gate: Gate = "soft"
    """``hard`` rounds the gate at inference, which preserves clips judged high-quality exactly; training is soft.
    Controls: ``oracle`` takes the quality label for the gate, ``open`` holds it at 1; neither has a router."""

    gate_per: GatePer = "clip"
    """One gate for a whole clip, or one for each frame."""

    router: RouterPlace = "layer"
    """A router in each wrapped layer, or one for the clip, shared by all and ahead of them."""

    coefficients_from: CoefficientsFrom = "reference"
    """What the coefficients are computed from: the retrieved reference, that beside the semantic gap, or, as a control
    without retrieval, the layer's input."""

    coefficients_per: CoefficientsPer = "token"
    """One residual for each token, or one for all tokens of a frame or a clip, from their mean."""

    basis: Basis = "svd"
    """Where the directions come from: the weight's own subspaces, or, as controls, random ones, fixed or learned."""

    null_branch: bool = True
    """Whether the residual has a part in the null space; without, as a control, only the gate protects a clip."""

    forward_mode: ForwardMode = "separate"
    """``separate`` adds the residual's image to the output; ``literal`` adds the residual to the input, and rounds."""

    reference: ReferenceTokens | None = None
    """Where the reference comes from in a model that is no grounder; a grounder has its own."""

    rank_rule: RankRule = "exact"
    """Which singular values make the row space: all above the weight's own rounding noise, those above a share of the
    largest (``relative``), or the fewest that hold a share of the energy (``energy``). The latter two make a null space
    of weights that have none, which leaks: read ``leakage`` in the report."""

    rank_threshold: float | None = None
    """The share, for the rules that take one."""

    spaces: Path | None = None
    """Folder that keeps the decompositions, so that no later start computes them again; without one nothing is kept."""

    lambda_router: float = 0.5
    """Weight of the router's loss in the objective, eq. (6)."""

    lambda_reg: float = 1e-3
    """Weight of the subspace regulariser, eq. (7), in the objective, eq. (6)."""

    lambda_leak: float = 0.0
    """Weight of what the null branch passes to the output: as a control, the constraint as a loss and no structure."""

    seed: int | None = None
    """Of the adapters' initial values, which depend on it, the layer's name and the options that shape its tensors, and
    not on the other layers; the run's seed if not given."""

    # The layers themselves are compared, lambdas and seed end with training, and the two modes share weights; so do
    # the soft and the hard gate, and all others differ in their tensors.
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {
            *("targets", "strategy", "share", "exclude", "gate", "forward_mode"),
            *("lambda_router", "lambda_reg", "lambda_leak", "seed", "spaces"),
        }
    )
    _state: ForwardState = field(default_factory=ForwardState, init=False, repr=False, compare=False)
    _leakage: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _folded: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        choices = {
            "gate": Gate,
            "gate_per": GatePer,
            "router": RouterPlace,
            "coefficients_from": CoefficientsFrom,
            "coefficients_per": CoefficientsPer,
            "basis": Basis,
            "forward_mode": ForwardMode,
        }
        for name in ("hidden", "retrieval_width"):
            if (width := getattr(self, name)) is not None and width < 1:
                raise ValueError(f"{name} must be at least 1, got {width}; leave it out for the model's width")
        for name, literal in choices.items():
            if (value := getattr(self, name)) not in get_args(literal):
                raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, got {value!r}")
        if self.gate_per == "frame" and self.coefficients_per == "clip":
            raise ValueError("a gate for each frame cannot act on one residual a clip; set coefficients_per to frame")

    # --- injection ----------------------------------------------------------------------------------------------------

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        bank_width, _ = self._reference(grounder)
        width = bank_width if self.retrieval_width is None else self.retrieval_width
        if self.heads < 1 or width % self.heads:
            raise ValueError(
                f"heads must divide the width of retrieval {width}, got {self.heads}; "
                f"change --model.tuner.init_args.heads"
            )
        targets = select_layers(
            grounder,
            self.targets,
            strategy=self.strategy,
            share=self.share,
            rule=self.rank_rule,
            threshold=self.rank_threshold,
            seed=self._seed,
            exclude=self.exclude,
            pointwise=not isinstance(grounder, Grounder),
        )
        for name, layer in targets.items():
            self._check_rank(name, layer)

        split = split_dual_space if self.spaces is None else DualSpaceStore(self.spaces).get
        wrapped: dict[nn.Module, TunedLinear] = {}
        reports = []
        for name, layer in targets.items():
            space = split(weight_matrix(layer), rule=self.rank_rule, threshold=self.rank_threshold)
            if not space.rank:
                raise ValueError(
                    f"'{name}' has rank 0: no residual can pass its zero weight; take it out of the targets"
                )
            wrapped[layer] = wrapper = self._wrap_layer(name, layer, space, bank_width, width)
            reports.append(_report(wrapper, space))
        self._leakage = {report.name: report.leakage for report in reports}
        return wrapped, tuple(reports)

    def _attach(self, grounder: nn.Module) -> None:
        bank_width, source = self._reference(grounder)
        source.register_forward_hook(
            self._state.observe if isinstance(source, ReferencePoint) else self._state.observe_tokens
        )
        if self._routes and self.router == "shared":
            width = bank_width if self.retrieval_width is None else self.retrieval_width
            with _drawn(self._seed, "router"):
                router = SharedRouter(
                    bank_width,
                    width=width,
                    heads=self.heads,
                    hidden=self._hidden(width),
                    per=self.gate_per,
                    coefficients_from=self.coefficients_from,
                )
            source.router = router.to(next(grounder.parameters()))

    def _reference(self, model: nn.Module) -> tuple[int, nn.Module]:
        """The width of the reference bank, and the module whose output it is made of."""
        kind = type(model).__name__
        if isinstance(model, Grounder):
            points = [module for module in model.modules() if isinstance(module, ReferencePoint)]
            if len(points) != 1:
                raise ValueError(f"expected exactly one ReferencePoint in {kind}, got {len(points)}")
            if self.reference is not None:
                raise ValueError(f"{kind} has a reference of its own, got '{self.reference.module}'; leave it out")
            return model.width, points[0]
        if self.reference is None:
            raise ValueError(
                f"{kind} is no Grounder: name the module that its reference comes from, e.g. reference="
                "ReferenceTokens('patch_embed', width=192)"
            )
        if self.router == "shared" or self.gate_per == "frame":
            raise ValueError(
                f"{kind} is no Grounder: it has no frames, so use router 'layer' and one gate a clip, got "
                f"router '{self.router}' and one gate a {self.gate_per}"
            )
        modules = dict(model.named_modules())
        if self.reference.module not in modules:
            raise ValueError(
                f"{kind} has no module '{self.reference.module}' to take the reference from; it has "
                + ", ".join(f"'{name}'" for name, _ in model.named_children())
            )
        return self.reference.width, modules[self.reference.module]

    @property
    def _seed(self) -> int:
        return torch.initial_seed() if self.seed is None else self.seed

    @property
    def _routes(self) -> bool:
        return self.gate in ("soft", "hard")

    def _hidden(self, width: int) -> int:
        return width if self.hidden is None else self.hidden

    def _check_rank(self, name: str, layer: nn.Module) -> None:
        d_in = weight_matrix(layer).shape[1]
        if not 1 <= self.rank <= d_in:
            raise ValueError(
                f"rank must lie in [1, {d_in}] for '{name}' ({d_in} inputs), got {self.rank}"
                f"; {'raise' if self.rank < 1 else 'lower'} --model.tuner.init_args.rank"
            )

    def _wrap_layer(
        self, name: str, layer: nn.Module, space: DualSpace, bank_width: int, width: int
    ) -> NullSpaceLinear:
        weight = weight_matrix(layer)
        with _drawn(self._seed, f"{name}/basis"):  # its own, so that a control that draws it shares all else with NST
            dual_space = DualSpaceReparameterization(
                weight, space, rank=self.rank, null_branch=self.null_branch, basis=self.basis
            )
        with _drawn(self._seed, name):
            unit = QualityAdaptiveUnit(
                space.shape[1],
                bank_width,
                width=width,
                row_rank=dual_space.row_basis.shape[1],
                null_rank=dual_space.null_basis.shape[1],
                heads=self.heads,
                hidden=self._hidden(width),
                routes=self._routes and self.router == "layer",
                gate_per=self.gate_per,
                coefficients_from=self.coefficients_from,
                coefficients_per=self.coefficients_per,
            )
            # Tuning starts from the pre-trained function: what reaches the output, a leak included, starts at zero.
            nn.init.zeros_(unit.row_head.outer.weight)
            nn.init.zeros_(unit.row_head.outer.bias)
            if unit.null_head is not None:
                nn.init.normal_(unit.null_head.outer.weight, std=0.0 if dual_space.leaks else NULL_HEAD_STD)
                nn.init.zeros_(unit.null_head.outer.bias)
        wrapper = NullSpaceLinear(
            layer,
            name=name,
            unit=unit,
            dual_space=dual_space,
            gate=self.gate,
            forward_mode=self.forward_mode,
            state=self._state,
        )
        return wrapper.to(device=weight.device, dtype=weight.dtype)

    # --- training -----------------------------------------------------------------------------------------------------

    @property
    def loss_weights(self) -> dict[str, float]:
        weights = {"router": self.lambda_router, "reg": self.lambda_reg, "leak": self.lambda_leak}
        return {name: weights[name] for name in self._terms}  # Eq. (6), beside L_ground with weight 1

    @property
    def _terms(self) -> tuple[str, ...]:
        return (*(("router",) if self._routes else ()), "reg", *(("leak",) if self.lambda_leak else ()))

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """``router``, ``reg`` and ``leak`` of the last forward, as far as the options have them.

        Unweighted float32 scalars, averaged over the wrapped layers.

        Args:
            qualities: (B,), y_q: 0 for high and 1 for low quality.

        Raises:
            RuntimeError: a wrapped layer did not run, or its graph is gone although gradients are enabled.
        """
        labels = qualities.float()
        functions = {
            "router": lambda call: router_loss(call.logits, labels, call.frame_mask),
            "reg": lambda call: subspace_regulariser(call, labels),
            "leak": null_leak,
        }
        layers = self._state.read(tuple(self._leakage), close=True)
        for layer, calls in layers.items():
            for call in calls:
                if torch.is_grad_enabled() and not call.row.requires_grad:
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
        return self.override_gate(qualities.float()) if self.gate == "oracle" else nullcontext()

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
        values = {}
        for layer, calls in self._state.read(tuple(self._leakage), close=False).items():
            values[f"gate/{layer}"] = torch.stack([per_clip(call.gate, call.frame_mask) for call in calls]).mean(0)
            if self._routes:
                values[f"router/{layer}"] = torch.stack(
                    [per_clip(call.logits.sigmoid(), call.frame_mask) for call in calls if call.logits is not None]
                ).mean(0)
            energies = [residual_energies(call) for call in calls]
            mean = {part: torch.stack([each[part] for each in energies]).mean(0) for part in energies[0]}
            values[f"row_energy/{layer}"], values[f"null_energy/{layer}"] = mean["gated_row"], mean["gated_null"]
            values[f"row_share/{layer}"] = _share(mean["gated_row"], mean["gated_null"])
            values[f"row_share_before/{layer}"] = _share(mean["row"], mean["null"])
            values[f"leakage/{layer}"] = mean["row"].new_tensor(self._leakage[layer])
        return values

    @contextmanager
    def override_gate(self, value: float | Tensor | None) -> Iterator[None]:
        """Force the gate of every wrapped layer: 0 is the certificate that the pre-trained function is preserved.

        Args:
            value: in [0, 1]; a number, (B,), or (B, T) with a gate a frame; ``None`` leaves the router in charge.
        """
        if value is not None and not torch.as_tensor(value).sub(0.5).abs().le(0.5).all():
            raise ValueError(f"a gate must lie in [0, 1], got {value}")
        before, self._state.forced_gate = self._state.forced_gate, value
        try:
            yield
        finally:
            self._state.forced_gate = before

    def fold(self, grounder: nn.Module) -> None:
        """Fold every wrapped layer for deployment, in place: the same outputs for less, and no more training or saving.

        The null branch goes where the null space is exact; a leak is part of the function, and stays.

        Raises:
            RuntimeError: this tuner is not injected into the model.
        """
        layers = [module for module in grounder.modules() if isinstance(module, NullSpaceLinear)]
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

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """Run the frozen model as if nothing had been injected: what a certificate compares with."""
        before, self._state.bypassed = self._state.bypassed, True
        try:
            yield
        finally:
            self._state.bypassed = before


def _spread(gate: Tensor, x: Tensor) -> Tensor:
    """A gate (B,) or (B, T) with axes of size 1 behind it, to broadcast over coefficients of x (B, ..., d)."""
    return gate.reshape(gate.shape + (1,) * (x.ndim - gate.ndim))


def _any_open(gate: Tensor, mask: Tensor) -> Tensor:
    """(B,), the clips of a gate (B,) or (B, T) that is open in any real frame; ``mask`` is that of the tokens."""
    return gate.bool() if gate.ndim == 1 else (gate.bool() & frames_with_tokens(mask)).any(dim=1)


def _share(part: Tensor, other: Tensor) -> Tensor:
    """The part's share of both; 0 where both are 0."""
    whole = part + other
    return torch.where(whole > 0, part / whole, 0.0)


def _report(wrapper: NullSpaceLinear, space: DualSpace) -> LayerReport:
    assert isinstance(wrapper.dual_space, DualSpaceReparameterization)
    k_r, k_n = wrapper.dual_space.row_basis.shape[1], wrapper.dual_space.null_basis.shape[1]
    return LayerReport(
        name=wrapper.name,
        shape=space.shape,
        rank=space.rank,
        nullity=space.nullity,
        leakage=space.leakage,
        adapter=f"row {k_r}, null {k_n}" if k_n else f"row {k_r}, no null branch",
    )


@contextmanager
def _drawn(seed: int, name: str) -> Iterator[None]:
    """Initial values on the CPU from a forked generator: the same on any device, and the global one stays in place."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, name))
        yield
