"""Null-space tuning: the paper's method, equations (1) to (7); eq. (2), the reference bank, is in ``reference.py``.

A frozen layer ``y = W x + b`` gets a residual dx on its input. What lies in the null space of W never reaches y; what
lies in its row space does. A quality gate sends the residual of a high-quality clip to the former and that of a
low-quality clip to the latter. The paper's equations are reconstructed: see docs/paper_map.md.

Shapes follow :mod:`stvg_nst.types`; besides, d_in and d_out are a layer's sizes, and "..." are the token axes of a
layer's input, (T,) or (T, M).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.models.base import Grounder, ReferencePoint
from stvg_nst.nullspace import DualSpace, RankRule, split_dual_space
from stvg_nst.seeding import derive_seed
from stvg_nst.tuning.base import LayerReport, TunedLinear, Tuner
from stvg_nst.tuning.reference import Assessment, CallRecord, ForwardState, ReferenceBank, masked_mean
from stvg_nst.tuning.selection import select_by_name

Gate = Literal["soft", "hard"]
GatePer = Literal["clip", "frame"]
CoefficientsFrom = Literal["reference", "reference_and_gap"]
ForwardMode = Literal["separate", "literal"]

# Enough for eq. (7) to have something to shrink, too little to matter where a null space is exact.
NULL_HEAD_STD = 1e-2


class Mlp(nn.Module):
    """Two layers with a GELU between them."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width_in, hidden)
        self.outer = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.gelu(self.inner(x)))


class CrossAttention(nn.Module):
    """Multi-head cross-attention (MHCA) from a layer's tokens to the reference bank.

    Written out because ``nn.MultiheadAttention`` would repeat the bank's mask for every head and query.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, bank: ReferenceBank) -> Tensor:
        """queries (B, Q, D) to (B, Q, D); the text's padding is left out."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, Q or 1 + L, D / heads)
            for layer, tokens in (
                (self.query, queries),
                (self.key, bank.tokens),
                (self.value, bank.tokens),
            )
        )
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=bank.mask[:, None, None])
        return self.out(found.transpose(1, 2).flatten(2))


class QualityAdaptiveUnit(nn.Module):
    """Detects what a degraded input lacks and proposes coefficients for both subspaces, Sec. III-C.

    Args:
        d_in: features of the layer's input.
        width: D, the width of the bank.
        row_rank, null_rank: k_r and k_n; without null directions there is no null branch.
        heads, hidden, gate_per, coefficients_from: as in :class:`NullSpaceTuning`.
    """

    def __init__(
        self,
        d_in: int,
        width: int,
        *,
        row_rank: int,
        null_rank: int,
        heads: int,
        hidden: int,
        gate_per: GatePer,
        coefficients_from: CoefficientsFrom,
    ) -> None:
        super().__init__()
        self.gate_per = gate_per
        self.coefficients_from = coefficients_from
        self.project = nn.Linear(d_in, width) if d_in != width else nn.Identity()  # P
        self.attention = CrossAttention(width, heads)
        source = width if coefficients_from == "reference" else 2 * width
        self.row_head = Mlp(source, hidden, row_rank)
        self.null_head = Mlp(source, hidden, null_rank) if null_rank else None
        self.router = Mlp(2 * width, hidden, 1)

    def forward(self, x: Tensor, bank: ReferenceBank, mask: Tensor) -> Assessment:
        """Assess x (B, ..., d_in), of which mask (B, ...) says what is real."""
        queries = self.project(x)
        found = self.attention(queries.flatten(1, -2), bank).view_as(queries)  # Eq. (3), X_ref = MHCA(P X, R, R)
        gap = queries - found

        source = found if self.coefficients_from == "reference" else torch.cat([found, gap], dim=-1)
        row = self.row_head(source)  # Eq. (4), C_r = MLP_r(X_ref)
        null = None if self.null_head is None else self.null_head(source)  # Eq. (4), C_n = MLP_n(X_ref)
        return Assessment(row, null, self._route(gap, mask))

    def _route(self, gap: Tensor, mask: Tensor) -> Tensor:
        """Logits of low quality, (B,) or (B, T), from the mean and the mean magnitude of the real tokens' gap."""
        axes = 1 if self.gate_per == "clip" else 2
        gap = gap.reshape(*gap.shape[:axes], -1, gap.shape[-1])
        mask = mask.reshape(*mask.shape[:axes], -1)
        pooled = torch.cat([masked_mean(gap, mask), masked_mean(gap.abs(), mask)], dim=-1)
        # Half precision would quantise the gate that decides what is preserved; the router is too small to gain by it.
        with torch.autocast(gap.device.type, enabled=False):
            return self.router(pooled.to(self.router.inner.weight.dtype)).squeeze(-1).float()


class DualSpaceReparameterization(nn.Module):
    """Turns coefficients and a gate into the residual of a frozen layer's input, or its image, Sec. III-D.

    Buffers, in the frozen weight's dtype: row_basis V_r,k (d_in, k_r), null_basis V_n,k (d_in, k_n), row_image
    W V_r,k (d_out, k_r), and null_image W V_n,k (d_out, k_n) where the null space leaks, else None. They are saved with
    the adapter: a second decomposition of the same weight may give other bases, to which the coefficients mean nothing.
    """

    row_basis: Tensor
    null_basis: Tensor
    row_image: Tensor
    null_image: Tensor | None

    def __init__(self, weight: Tensor, space: DualSpace, *, rank: int) -> None:
        super().__init__()
        row = space.row[:, :rank]
        null = space.null[:, max(space.nullity - rank, 0) :]  # the last directions leak least
        matrix = weight.detach().cpu().double()
        leak = None if space.exact or not space.nullity else matrix @ null
        for name, value in (
            ("row_basis", row),
            ("null_basis", null),
            ("row_image", matrix @ row),
            ("null_image", leak),
        ):
            self.register_buffer(name, None if value is None else value.to(weight.dtype).contiguous())

    def residual(self, gate: Tensor, row: Tensor, null: Tensor | None) -> Tensor:
        """dX (B, ..., d_in); gate broadcasts over the coefficients row (B, ..., k_r) and null (B, ..., k_n)."""
        if null is None:
            return F.linear(gate * row, self.row_basis)
        return F.linear(gate * row, self.row_basis) + F.linear((1 - gate) * null, self.null_basis)  # Eq. (5)

    def image(self, gate: Tensor, row: Tensor, null: Tensor | None) -> Tensor:
        """W dX (B, ..., d_out) without going through dX: eq. (1) leaves the null term out, save for its leak.

        Computed as ``W (x + dX)`` the sum would be rounded before W could ignore its null part.
        """
        image = F.linear(gate * row, self.row_image)
        if null is None or self.null_image is None:
            return image
        return image + F.linear((1 - gate) * null, self.null_image)


class NullSpaceLinear(TunedLinear):
    """A frozen linear layer under null-space tuning; takes (B, T, d_in) or (B, T, M, d_in).

    Args:
        base_layer: the frozen layer.
        name: its name in the model, for messages and records.
        unit, dual_space: Sec. III-C and III-D.
        gate, forward_mode: as in :class:`NullSpaceTuning`.
        state: shared by all wrapped layers of a model.
    """

    def __init__(
        self,
        base_layer: nn.Linear,
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

    def forward(self, x: Tensor) -> Tensor:
        bank = self.state.bank_for(self.name)
        mask = bank.mask_of(x, self.name)
        found = self.unit(x, bank, mask)
        gate = self._gate(found.logits)
        self.state.record(self.name, CallRecord(found, gate, mask))

        spread = gate.reshape(gate.shape + (1,) * (x.ndim - gate.ndim)).to(found.row.dtype)
        if self.forward_mode == "literal":
            return self.base_layer(x + self.dual_space.residual(spread, found.row, found.null))  # Eq. (1)
        return self.base_layer(x) + self.dual_space.image(spread, found.row, found.null)  # Eq. (1), null term dropped

    def _gate(self, logits: Tensor) -> Tensor:
        """g, 0 for high and 1 for low quality; the shape of the logits."""
        if (forced := self.state.forced_gate) is not None:
            value = torch.as_tensor(forced, dtype=logits.dtype, device=logits.device)
            return value.reshape(value.shape + (1,) * (logits.ndim - value.ndim)).expand_as(logits)
        gate = logits.sigmoid()
        return gate.round() if self.gate == "hard" and not self.training else gate


@dataclass
class NullSpaceTuning(Tuner):
    """Null-space tuning (NST) of the layers that match ``targets``."""

    targets: Sequence[str]
    """Shell-style patterns over layer names, such as ``decoder.*.linear2``; each must match linear layers only."""

    rank: int = 64
    """Directions of each subspace that a layer may use; fewer where a subspace has fewer. The paper uses 64."""

    heads: int = 4
    """Heads of the cross-attention to the reference bank."""

    hidden: int | None = None
    """Hidden width of the coefficient heads and the router; the grounding model's width if not given."""

    gate: Gate = "soft"
    """``hard`` rounds the gate at inference, which preserves clips judged high-quality exactly; training is soft."""

    gate_per: GatePer = "clip"
    """One gate for a whole clip, or one for each frame."""

    coefficients_from: CoefficientsFrom = "reference"
    """What the coefficients are computed from: the retrieved reference, or that beside the semantic gap."""

    forward_mode: ForwardMode = "separate"
    """``separate`` adds the residual's image to the output; ``literal`` adds the residual to the input, and rounds."""

    tolerance: float | None = None
    """Singular values up to this share of the largest count as null; the weight's rounding noise if not given."""

    lambda_router: float = 0.5
    """Weight of the router's loss in the objective, eq. (6)."""

    lambda_reg: float = 1e-3
    """Weight of the subspace regulariser, eq. (7), in the objective, eq. (6)."""

    seed: int | None = None
    """Of the adapters' initial values, which depend on it and the layer's name only; the run's seed if not given."""

    # The layers themselves are compared, lambdas and seed end with training, and the two modes and gates share weights.
    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"targets", "gate", "forward_mode", "lambda_router", "lambda_reg", "seed"}
    )
    _state: ForwardState = field(default_factory=ForwardState, init=False, repr=False, compare=False)
    _leakage: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        choices = {
            "gate": Gate,
            "gate_per": GatePer,
            "coefficients_from": CoefficientsFrom,
            "forward_mode": ForwardMode,
        }
        if self.hidden is not None and self.hidden < 1:
            raise ValueError(f"hidden must be at least 1, got {self.hidden}; leave it out for the model's width")
        for name, literal in choices.items():
            if (value := getattr(self, name)) not in get_args(literal):
                raise ValueError(f"{name} must be one of {', '.join(get_args(literal))}, got {value!r}")

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Linear, TunedLinear], tuple[LayerReport, ...]]:
        if not isinstance(grounder, Grounder):
            raise TypeError(f"null-space tuning needs a Grounder, got {type(grounder).__name__}")
        if self.heads < 1 or grounder.width % self.heads:
            raise ValueError(
                f"heads must divide the grounder's width {grounder.width}, got {self.heads}; "
                f"change --model.tuner.init_args.heads"
            )
        points = [module for module in grounder.modules() if isinstance(module, ReferencePoint)]
        if len(points) != 1:
            raise ValueError(f"expected exactly one ReferencePoint in {type(grounder).__name__}, got {len(points)}")
        targets = select_by_name(grounder, self.targets)
        for name, layer in targets.items():
            self._check_rank(name, layer)
        seed = torch.initial_seed() if self.seed is None else self.seed

        wrapped, reports = {}, []
        for name, layer in targets.items():
            rule: RankRule = "exact" if self.tolerance is None else "relative"
            space = split_dual_space(layer.weight, rule=rule, threshold=self.tolerance)
            if not space.rank:
                raise ValueError(
                    f"'{name}' has rank 0: no residual can pass its zero weight; take it out of the targets"
                )
            wrapped[layer] = wrapper = self._wrap_layer(name, layer, space, grounder.width, seed)
            k_r, k_n = wrapper.dual_space.row_basis.shape[1], wrapper.dual_space.null_basis.shape[1]
            reports.append(
                LayerReport(
                    name=name,
                    shape=(layer.out_features, layer.in_features),
                    rank=space.rank,
                    nullity=space.nullity,
                    leakage=space.leakage,
                    adapter=f"row {k_r}, null {k_n}" if k_n else f"row {k_r}, no null branch",
                )
            )
        points[0].register_forward_hook(self._state.observe)
        self._leakage = {report.name: report.leakage for report in reports}
        return wrapped, tuple(reports)

    def _check_rank(self, name: str, layer: nn.Linear) -> None:
        if not 1 <= self.rank <= layer.in_features:
            raise ValueError(
                f"rank must lie in [1, {layer.in_features}] for '{name}' ({layer.in_features} inputs), got {self.rank}"
                f"; {'raise' if self.rank < 1 else 'lower'} --model.tuner.init_args.rank"
            )

    def _wrap_layer(self, name: str, layer: nn.Linear, space: DualSpace, width: int, seed: int) -> NullSpaceLinear:
        dual_space = DualSpaceReparameterization(layer.weight, space, rank=self.rank)
        # Drawn on the CPU from a forked generator: the same on any device, and the global one stays where it was.
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(derive_seed(seed, name))
            unit = QualityAdaptiveUnit(
                layer.in_features,
                width,
                row_rank=dual_space.row_basis.shape[1],
                null_rank=dual_space.null_basis.shape[1],
                heads=self.heads,
                hidden=width if self.hidden is None else self.hidden,
                gate_per=self.gate_per,
                coefficients_from=self.coefficients_from,
            )
            # Tuning starts from the pre-trained function: what reaches the output, a leak included, starts at zero.
            nn.init.zeros_(unit.row_head.outer.weight)
            nn.init.zeros_(unit.row_head.outer.bias)
            if unit.null_head is not None:
                std = NULL_HEAD_STD if dual_space.null_image is None else 0.0
                nn.init.normal_(unit.null_head.outer.weight, std=std)
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
        return wrapper.to(device=layer.weight.device, dtype=layer.weight.dtype)

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"router": self.lambda_router, "reg": self.lambda_reg}  # Eq. (6), beside L_ground with weight 1

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """``router`` and ``reg`` of the last forward, unweighted float32 scalars, averaged over the wrapped layers.

        Args:
            qualities: (B,), y_q: 0 for high and 1 for low quality.

        Raises:
            RuntimeError: a wrapped layer did not run, or its graph is gone although gradients are enabled.
        """
        labels = qualities.float()
        router, reg = [], []
        for layer, calls in self._state.read(tuple(self._leakage), close=True).items():
            for call in calls:
                if torch.is_grad_enabled() and not call.assessment.logits.requires_grad:
                    raise RuntimeError(
                        f"the last forward of '{layer}' kept no graph to train by; run it with gradients enabled, and "
                        f"under gradient checkpointing pass use_reentrant=False"
                    )
            router.append(torch.stack([router_loss(call, labels) for call in calls]).mean())
            reg.append(torch.stack([subspace_regulariser(call, labels) for call in calls]).mean())
        return {"router": torch.stack(router).mean(), "reg": torch.stack(reg).mean()}

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """Of the last forward, by layer, float32; means over the calls of a layer that is called more than once.

        ``gate`` and ``router`` are (B,): the gate as applied and as the router would have it, means over real frames.
        ``row_energy`` and ``null_energy`` are scalars: the mean squared norm, over real tokens, of the two parts of the
        residual dX (0 without a null branch). ``leakage`` is the worst case of the layer's null space.
        """
        values = {}
        for layer, calls in self._state.read(tuple(self._leakage), close=False).items():
            values[f"gate/{layer}"] = torch.stack([per_clip(call.gate, call.mask) for call in calls]).mean(0)
            values[f"router/{layer}"] = torch.stack(
                [per_clip(call.assessment.logits.sigmoid(), call.mask) for call in calls]
            ).mean(0)
            energies = torch.stack([torch.stack(residual_energies(call)) for call in calls]).mean(0)
            values[f"row_energy/{layer}"], values[f"null_energy/{layer}"] = energies
            values[f"leakage/{layer}"] = energies.new_tensor(self._leakage[layer])
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


def router_loss(call: CallRecord, labels: Tensor) -> Tensor:
    """L_router of eq. (6): cross-entropy of gate and label, the mean over real frames where each has its own gate."""
    logits = call.assessment.logits
    target = labels.reshape(labels.shape + (1,) * (logits.ndim - 1)).expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return per_clip(loss, call.mask).mean()


def subspace_regulariser(call: CallRecord, labels: Tensor) -> Tensor:
    """L_reg of eq. (7), the mean over the batch's real tokens; without a null branch its term is 0."""
    row, null, _ = call.assessment
    y = labels.reshape(labels.shape + (1,) * (call.mask.ndim - 1))
    penalty = (1 - y) * squared_norm(row)  # Eq. (7), high quality: nothing may pass
    if null is not None:
        penalty = penalty + y * squared_norm(null)  # Eq. (7), low quality: nothing may be wasted
    return token_mean(penalty, call.mask)


def residual_energies(call: CallRecord) -> tuple[Tensor, Tensor]:
    """Mean squared norms over real tokens of dX's two parts, g C_r and (1 - g) C_n: the bases are orthonormal."""
    row, null, _ = call.assessment
    gate = call.gate.reshape(call.gate.shape + (1,) * (call.mask.ndim - call.gate.ndim))
    row_energy = token_mean(gate.square() * squared_norm(row), call.mask)
    if null is None:
        return row_energy, torch.zeros_like(row_energy)
    return row_energy, token_mean((1 - gate).square() * squared_norm(null), call.mask)


def per_clip(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) from one value a clip (B,), or from one value a frame (B, T) as the mean over real frames."""
    if values.ndim == 1:
        return values
    frames = mask if mask.ndim == 2 else mask.any(dim=-1)
    return masked_mean(values[..., None], frames).squeeze(-1)


def token_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Scalar mean over the real tokens of all clips; values and mask have the same shape."""
    return masked_mean(values.flatten()[:, None], mask.flatten()).squeeze()


def squared_norm(coefficients: Tensor) -> Tensor:
    return coefficients.float().square().sum(dim=-1)
