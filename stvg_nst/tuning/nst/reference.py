"""The reference bank, eq. (2), and how it and the layers' answers travel through one forward pass of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.models.base import Grounder, Reference, ReferencePoint, TokenGrid, grid_of
from stvg_nst.tuning.nst.coefficients import Coefficients

if TYPE_CHECKING:
    from stvg_nst.tuning.nst.residual import DualSpaceReparameterization


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


class ReferenceBank(NamedTuple):
    """What the wrapped layers retrieve from, and which positions of their inputs are real.

    tokens is (B, R, D) and mask (B, R), True on real tokens. grids are those of a grounder, the first of which has one
    token a frame; a model of any other kind has none, and all of its tokens are real.
    """

    tokens: Tensor
    mask: Tensor
    grids: tuple[TokenGrid, ...]

    @classmethod
    def of(cls, reference: Reference) -> ReferenceBank:
        """R = [g_v ; T_q], g_v being one token: the mean over the clip's real frames and their real tokens.

        The bank is detached. By the contract of the reference point nothing trainable lies upstream of it, so no
        gradient is lost, and holding the bank between forwards holds no graph.
        """
        visual, frame_mask = reference.visual.detach(), reference.frame_mask
        real = reference.visual_mask & frame_mask[..., None]
        context = masked_mean(visual.flatten(1, 2), real.flatten(1)).to(visual.dtype)[:, None]  # (B, 1, D)
        tokens = torch.cat([context, reference.text.detach()], dim=1)  # Eq. (2)
        mask = F.pad(reference.text_mask, (1, 0), value=True)
        return cls(tokens, mask, reference.grids)

    @classmethod
    def of_tokens(cls, tokens: Tensor) -> ReferenceBank:
        """The bank of a model that grounds nothing: the mean of some tokens (B, N, D), and the tokens themselves."""
        tokens = tokens.detach()
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        return cls(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device), ())

    def grid_of(self, x: Tensor, layer: str) -> TokenGrid:
        """Which tokens of a layer's input x (B, ..., d_in) are real.

        Raises:
            ValueError: the leading shape of x is none that the grounder knows; or, in any other model, x has not one
                row for each sample of the reference.
        """
        if not self.grids:
            if len(x) != len(self.tokens):
                raise ValueError(
                    f"the input of '{layer}' must lead with the {len(self.tokens)} samples of the reference, got "
                    f"{tuple(x.shape)}; keep the axis of the samples first, or take the layer out of the targets"
                )
            return TokenGrid(torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device))
        return grid_of(self.grids, x, layer)

    @property
    def frame_mask(self) -> Tensor:
        """(B, T), True on real frames of a grounder."""
        return self.grids[0].mask

    def of_clips(self, clips: Tensor) -> ReferenceBank:
        """The bank of some clips only, by their indices."""
        grids = tuple(grid.of_clips(clips) for grid in self.grids)
        return ReferenceBank(self.tokens[clips], self.mask[clips], grids)


class Assessment(NamedTuple):
    """What the quality-adaptive unit says of a layer's input.

    row is C_r (B, ..., k_r); null is C_n (B, ..., k_n), or None without a null branch. logits are the unit's own
    router's, positive for low quality, (B,) or (B, T), float32, if it has one.
    """

    row: Coefficients
    null: Coefficients | None
    logits: Tensor | None


class CallRecord(NamedTuple):
    """One call of a wrapped layer.

    row and null are as in :class:`Assessment`; gate is (B,) or (B, F), as applied, and logits are its router's, None
    where no router spoke; mask (B, ...) is that of the input's tokens, and F its frames; weight is the frozen W.
    ``clips`` lists the clips that row and null belong to where a hard gate skipped the others, and is None where they
    belong to all.
    """

    row: Coefficients
    null: Coefficients | None
    logits: Tensor | None
    gate: Tensor
    mask: Tensor
    space: DualSpaceReparameterization
    weight: Tensor
    clips: Tensor | None = None

    @property
    def frame_mask(self) -> Tensor:
        """(B, F), True on real frames."""
        return frames_with_tokens(self.mask)


def frames_with_tokens(mask: Tensor) -> Tensor:
    """(B, T), True on frames of which any token is real; of a mask (B, T) or (B, T, ...) over tokens."""
    return mask if mask.ndim <= 2 else mask.flatten(2).any(dim=-1)


class _Router(Protocol):
    """What :class:`stvg_nst.tuning.nst.router.SharedRouter` is to a forward."""

    threshold: Tensor

    def __call__(self, reference: Reference, bank: ReferenceBank) -> Tensor: ...


class ForwardState:
    """What the wrapped layers of one model share while it runs: the bank on its way in, their records on the way out.

    It lasts from one reference to the next, and a copy or a pickle of the model starts without it. The records close
    when the losses have been read, so that gradient checkpointing, which runs layers again during the backward pass,
    does not count them twice.

    Args:
        width: D, of the reference in a model that is no grounder; known when the module that it comes from is.
    """

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._bank: ReferenceBank | None = None
        self._records: dict[str, list[CallRecord]] = {}
        self._open = False
        self.shared_logits: Tensor | None = None
        self._threshold: Tensor | None = None
        self.forced_gate: float | Tensor | None = None
        self.taught_gate: Tensor | None = None
        self.applied_gate: Tensor | None = None
        self._begun_with: tuple[float | Tensor | None, Tensor | None] = (None, None)
        self.bypassed = False

    def __reduce__(self) -> tuple[type[ForwardState], tuple[int | None]]:
        return ForwardState, (self._width,)

    def watch(self, source: nn.Module, width: int) -> None:
        """Begin with every output of the module that :func:`find_reference` named, whose width is D."""
        self._width = width
        # Bound methods and no closures, so that a copy follows its model.
        source.register_forward_hook(self.observe if isinstance(source, ReferencePoint) else self.observe_tokens)

    def observe(self, point: nn.Module, inputs: tuple[Tensor, ...], reference: Reference) -> None:
        """Of a grounder's reference point; a shared router is its child."""
        self._begin(bank := ReferenceBank.of(reference))
        router: _Router | None = getattr(point, "router", None)
        if router is not None and not self.bypassed:
            self.shared_logits = router(reference, bank)
            self._threshold = router.threshold

    def observe_tokens(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Of the module of another model whose output (B, N, D), or (B, D, ...) maps, are the reference's tokens.

        Raises:
            ValueError: it is neither, or of another width.
        """
        tokens = output.flatten(2).transpose(1, 2) if output.ndim > 3 else output
        if tokens.ndim != 3 or tokens.shape[-1] != self._width:
            raise ValueError(
                f"a reference of width {self._width} is tokens (B, N, {self._width}) or maps (B, {self._width}, ...), "
                f"got {tuple(output.shape)}; name another module, or the width of this one, in ReferenceTokens"
            )
        self._begin(ReferenceBank.of_tokens(tokens))

    @contextmanager
    def bypassing(self) -> Iterator[None]:
        """The wrapped layers are as if nothing had been put around them."""
        before, self.bypassed = self.bypassed, True
        try:
            yield
        finally:
            self.bypassed = before
            self._bank = None  # else a layer that runs ahead of the reference would take that of the forward before

    def _begin(self, bank: ReferenceBank) -> None:
        self._bank, self._records, self._open, self.shared_logits = bank, {}, True, None
        self._begun_with = self.forced_gate, self.taught_gate

    def known_gate(self, *, training: bool) -> float | Tensor | None:
        """What a layer's gate is forced to, or taught in ``training``; ``None`` where the router decides.

        What held as this forward began holds on: checkpointing runs layers again behind that.
        """
        forced, taught = self._begun_with
        if (forced := self.forced_gate if self.forced_gate is not None else forced) is not None:
            return forced
        return (self.taught_gate if self.taught_gate is not None else taught) if training else None

    def routed_gate(self, *, hard: bool) -> Tensor | None:
        """What the shared router makes of the gate, 0 for high and 1 for low quality; ``None`` without such a router.

        (B,) or (B, T), float32; a ``hard`` one is open or closed.
        """
        if self.shared_logits is None:
            return None
        if not hard:
            return self.shared_logits.sigmoid()
        assert self._threshold is not None, "it comes with the logits"
        return (self.shared_logits > self._threshold).float()

    @contextmanager
    def forcing_gate(self, value: float | Tensor | None) -> Iterator[None]:
        """The gate of every layer is ``value``, a number, (B,) or (B, T), whatever a router says; ``None`` forces none.

        Raises:
            ValueError: it does not lie in [0, 1].
        """
        if value is not None and not torch.as_tensor(value).sub(0.5).abs().le(0.5).all():
            raise ValueError(f"a gate must lie in [0, 1], got {value}")
        before, self.forced_gate = self.forced_gate, value
        try:
            yield
        finally:
            self.forced_gate = before

    @contextmanager
    def teaching_gate(self, value: Tensor) -> Iterator[None]:
        """The gate of each layer that is in training mode is ``value``, (B,), unless another one is forced.

        A layer's own flag decides: Lightning gives each module its mode back behind a validation, and tells nobody.
        """
        before, self.taught_gate = self.taught_gate, value
        try:
            yield
        finally:
            self.taught_gate = before

    def bank_for(self, layer: str) -> ReferenceBank:
        if self._bank is None:
            raise RuntimeError(
                f"'{layer}' ran before any reference was seen: the grounder must call its ReferencePoint in ground(), "
                f"ahead of every tuned layer"
            )
        return self._bank

    def record(self, layer: str, call: CallRecord) -> None:
        if self._open:
            self._records.setdefault(layer, []).append(call)

    def read(self, layers: Sequence[str], *, close: bool) -> dict[str, list[CallRecord]]:
        """The calls of the last forward by layer.

        Raises:
            RuntimeError: there was no forward, or a layer was not called in it.
        """
        if missing := [layer for layer in layers if layer not in self._records]:
            raise RuntimeError(
                f"expected every wrapped layer to run in the last forward, but {len(missing)} of {len(layers)} did "
                f"not, such as '{missing[0]}'; call the grounder first, and take what it never calls out of the targets"
            )
        self._open = self._open and not close
        return self._records


def find_reference(
    model: nn.Module, named: ReferenceTokens | None, *, routed_ahead: bool, per: Literal["clip", "frame"]
) -> tuple[int, nn.Module]:
    """The width D of the reference bank, and the module whose output it is made of.

    Args:
        model: a grounder has exactly one :class:`stvg_nst.models.base.ReferencePoint`.
        named: where the reference of any other model comes from.
        routed_ahead: whether one router decides ahead of all layers, which takes a grounder.
        per: what a gate is for; frames are a grounder's.

    Raises:
        ValueError: there is no such module, or more than one.
    """
    kind = type(model).__name__
    if isinstance(model, Grounder):
        points = [module for module in model.modules() if isinstance(module, ReferencePoint)]
        if len(points) != 1:
            raise ValueError(f"expected exactly one ReferencePoint in {kind}, got {len(points)}")
        if named is not None:
            raise ValueError(f"{kind} has a reference of its own, got '{named.module}'; leave it out")
        return model.width, points[0]
    if named is None:
        raise ValueError(
            f"{kind} is no Grounder: name the module that its reference comes from, e.g. reference="
            "ReferenceTokens('patch_embed', width=192)"
        )
    if routed_ahead or per == "frame":
        raise ValueError(
            f"{kind} is no Grounder: it has no frames, so use router 'layer' and one gate a clip, got "
            f"router '{'shared' if routed_ahead else 'layer'}' and one gate a {per}"
        )
    modules = dict(model.named_modules())
    if named.module not in modules:
        raise ValueError(
            f"{kind} has no module '{named.module}' to take the reference from; it has "
            + ", ".join(f"'{name}'" for name, _ in model.named_children())
        )
    return named.width, modules[named.module]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Float32 mean of values (..., N, D) over the N of which mask (..., N) is True; 0 where none is."""
    # Filled, and not multiplied by 0: padding may hold anything, infinities included.
    total = values.float().masked_fill(~mask[..., None], 0.0).sum(dim=-2)
    return total / mask.sum(dim=-1, keepdim=True).clamp(min=1)
