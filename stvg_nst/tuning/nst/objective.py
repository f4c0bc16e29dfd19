"""What null-space tuning adds to the grounding loss, eqs. (6) and (7), and what the residual of a call amounts to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from stvg_nst.tuning.nst.coefficients import spread
from stvg_nst.tuning.nst.reference import CallRecord, masked_mean


def router_loss(logits: Tensor, labels: Tensor, frame_mask: Tensor) -> Tensor:
    """L_router of eq. (6): cross-entropy of gate and label, the mean over real frames where each has its own gate.

    Args:
        logits: (B,) or (B, T), positive for low quality.
        labels: (B,), y_q: 0 for high and 1 for low quality.
        frame_mask: (B, T), True on real frames.
    """
    target = spread(labels, logits).expand_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return per_clip(loss, frame_mask).mean()


def subspace_regulariser(call: CallRecord, high: Tensor, low: Tensor) -> Tensor:
    """L_reg of eq. (7), the mean over the batch's real tokens; without a null branch its term is 0.

    Args:
        high, low: indices of the clips of high quality, y_q = 0, and of low quality, y_q = 1.
    """
    energy = call.row.of_clips(high).energy(call.mask[high])  # Eq. (7), high quality: nothing may pass
    if call.null is not None:
        energy = energy + call.null.of_clips(low).energy(call.mask[low])  # low quality: nothing may be wasted
    return energy / call.mask.sum().clamp(min=1)


def null_leak(call: CallRecord) -> Tensor:
    """Mean squared norm, over real tokens, of W times the null branch's residual: the constraint as a loss term.

    The ablation's stand-in for a null space: zero if and only if the layer ignores the branch. It reaches the branch
    only where the space leaks or its directions are not those of the weight.
    """
    _, null_image = call.space.images(call.weight)
    if call.null is None or null_image is None:
        return call.row.hidden.new_zeros((), dtype=torch.float32)
    leak = call.null.gated(1 - spread(call.gate, call.null.hidden)).mapped(null_image)
    energy = leak.float().square().sum(dim=-1).expand(call.mask.shape)
    return masked_mean(energy.flatten()[:, None], call.mask.flatten()).squeeze()


def residual_energies(call: CallRecord) -> dict[str, Tensor]:
    """Mean squared norms, over real tokens, of dX's two parts as proposed and as the gate lets them pass.

    Keys: ``row`` and ``null`` before the gate, C_r and C_n; ``gated_row`` and ``gated_null`` behind it, g C_r and
    (1 - g) C_n. Without a null branch its parts are 0. Clips that a hard gate skipped count as zero.
    """
    row, null = call.space.energies(call.row, call.null)
    null = torch.zeros_like(row) if null is None else null
    gate = spread(call.gate if call.clips is None else call.gate[call.clips], row)
    parts = {"row": row, "null": null, "gated_row": gate.square() * row, "gated_null": (1 - gate).square() * null}
    count = call.mask.sum().clamp(min=1)
    seen = call.mask if call.clips is None else call.mask[call.clips]
    # Filled, and not multiplied by 0: padding may hold anything, infinities included.
    return {name: value.expand(seen.shape).masked_fill(~seen, 0.0).sum() / count for name, value in parts.items()}


def describe_calls(calls: Sequence[CallRecord]) -> dict[str, Tensor]:
    """What a layer's calls in one forward amount to, by the names that ``NullSpaceTuning.diagnostics`` explains.

    ``router`` is left out where no router spoke.
    """
    values = {"gate": torch.stack([per_clip(call.gate, call.frame_mask) for call in calls]).mean(0)}
    if (verdict := verdict_of(calls)) is not None:
        values["router"] = verdict
    energies = [residual_energies(call) for call in calls]
    mean = {part: torch.stack([each[part] for each in energies]).mean(0) for part in energies[0]}
    values["row_energy"], values["null_energy"] = mean["gated_row"], mean["gated_null"]
    values["row_share"] = _share(mean["gated_row"], mean["gated_null"])
    values["row_share_before"] = _share(mean["row"], mean["null"])
    return values


def verdict_of(calls: Sequence[CallRecord]) -> Tensor | None:
    """(B,), what the router says of each clip, the mean over a layer's calls; ``None`` where no router spoke."""
    routed = [per_clip(call.logits.sigmoid(), call.frame_mask) for call in calls if call.logits is not None]
    return torch.stack(routed).mean(0) if routed else None


def _share(part: Tensor, other: Tensor) -> Tensor:
    """The part's share of both; 0 where both are 0."""
    whole = part + other
    return torch.where(whole > 0, part / whole, 0.0)


def per_clip(values: Tensor, frame_mask: Tensor) -> Tensor:
    """(B,) from one value a clip (B,), or from one value a frame (B, T) as the mean over real frames."""
    return values if values.ndim == 1 else masked_mean(values[..., None], frame_mask).squeeze(-1)
