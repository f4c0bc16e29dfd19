"""The reference bank, eq. (2), and how it and the layers' answers travel through one forward pass of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.models.base import Reference


class ReferenceBank(NamedTuple):
    """What the wrapped layers retrieve from, and which positions of their inputs are real.

    tokens is (B, 1 + L, D) and mask (B, 1 + L); frame_mask is (B, T) and memory_mask (B, T, M); masks are True on real.
    """

    tokens: Tensor
    mask: Tensor
    frame_mask: Tensor
    memory_mask: Tensor

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
        return cls(tokens, mask, frame_mask, reference.memory_mask & frame_mask[..., None])

    def mask_of(self, x: Tensor, layer: str) -> Tensor:
        """The mask of a layer's input: (B, T) for x (B, T, d_in), (B, T, M) for x (B, T, M, d_in).

        Raises:
            ValueError: the leading shape of x is neither.
        """
        for mask in (self.frame_mask, self.memory_mask):
            if x.shape[:-1] == mask.shape:
                return mask
        frames, memory = (tuple(mask.shape) for mask in (self.frame_mask, self.memory_mask))
        raise ValueError(
            f"the input of '{layer}' must lead with the clips' frames {frames} or memory {memory}, got "
            f"{tuple(x.shape)}: its padding is unknown; take '{layer}' out of --model.tuner.init_args.targets"
        )


class Assessment(NamedTuple):
    """What the quality-adaptive unit says of a layer's input.

    row is C_r (B, ..., k_r); null is C_n (B, ..., k_n), or None without a null branch; logits are the router's,
    positive for low quality, (B,) or (B, T), float32.
    """

    row: Tensor
    null: Tensor | None
    logits: Tensor


class CallRecord(NamedTuple):
    """One call of a wrapped layer; gate has the shape of the logits, mask that of the input's tokens."""

    assessment: Assessment
    gate: Tensor
    mask: Tensor


class ForwardState:
    """What the wrapped layers of one model share while it runs: the bank on its way in, their records on the way out.

    It lasts from one reference to the next, and a copy or a pickle of the model starts without it. The records close
    when the losses have been read, so that gradient checkpointing, which runs layers again during the backward pass,
    does not count them twice.
    """

    def __init__(self) -> None:
        self._bank: ReferenceBank | None = None
        self._records: dict[str, list[CallRecord]] = {}
        self._open = False
        self.forced_gate: float | Tensor | None = None

    def __reduce__(self) -> tuple[type[ForwardState], tuple[()]]:
        return ForwardState, ()

    def observe(self, point: nn.Module, inputs: tuple[Tensor, ...], reference: Reference) -> None:
        """The forward hook of the reference point; a bound method and no closure, so that a copy follows its model."""
        self._bank, self._records, self._open = ReferenceBank.of(reference), {}, True

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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Float32 mean of values (..., N, D) over the N of which mask (..., N) is True; 0 where none is."""
    # Filled, and not multiplied by 0: padding may hold anything, infinities included.
    total = values.float().masked_fill(~mask[..., None], 0.0).sum(dim=-2)
    return total / mask.sum(dim=-1, keepdim=True).clamp(min=1)
