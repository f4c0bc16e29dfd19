"""The grounding objective of CG-STVG: L_ground of eq. (6)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from stvg_nst.types import Batch, GroundingOutput, with_box

_OUTSIDE_WEIGHT = 0.3  # of frames outside the tube in the actioness term
_BOUNDARY_SIGMA = 2.0  # sampled frames: spread of the target around the true start and end


class GroundingLoss(nn.Module):
    """Box, overlap, confidence, boundary and actioness terms, summed over the decoder stages.

    In training, box terms are means over the true boxes of an optimiser step, as far as the batch says what the step
    holds (``Batch.step``), else over those of this batch in all processes. In evaluation they are means over a clip: no
    value depends on what else is in a batch, and no process waits for another, which may have a batch less. The other
    terms are always means over a clip, so that a batch of one gives the original's values. A true box without an area
    teaches nothing about boxes and their confidence, but its frame is in the tube.

    Args:
        boxes, giou, confidence, start_end, actioness: weight of each term.
        confidence_kind: of the confidence term. ``cross_entropy`` is what the original runs; ``smooth_l1``, meant for
            VidSTG, is only a comment there; it is a mean over all true boxes, as the box terms are.

    Source: CG-STVG (Gu et al., CVPR 2024).
    """

    def __init__(
        self,
        *,
        boxes: float = 5.0,
        giou: float = 4.0,
        confidence: float = 1.0,
        start_end: float = 10.0,
        actioness: float = 2.0,
        confidence_kind: Literal["cross_entropy", "smooth_l1"] = "cross_entropy",
    ) -> None:
        super().__init__()
        self.weights = {
            "boxes": boxes,
            "giou": giou,
            "confidence": confidence,
            "start_end": start_end,
            "actioness": actioness,
        }
        self.confidence_kind = confidence_kind

    def forward(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        """Unweighted terms by name, each (S, B): its mean over clips is the term of that decoder stage."""
        inside = batch.inside
        boxed = with_box(batch.boxes, inside)
        if self.training and batch.step is not None:
            num_clips, num_boxes = torch.tensor((batch.step.clips, batch.step.boxes)).to(inside.device).float()
        elif self.training:
            totals = torch.stack((inside.new_full((), len(batch), dtype=torch.float32), boxed.sum().float()))
            num_clips, num_boxes = _mean_over_processes(totals)
        else:
            num_clips, num_boxes = inside.new_ones((), dtype=torch.float32), boxed.sum(1).float()
        num_boxes = num_boxes.clamp(min=1)
        predicted, true = output.boxes.float(), batch.boxes.float().expand_as(output.boxes)
        counted = boxed.expand(output.boxes.shape[:-1])

        predicted_xyxy, true_xyxy = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
        overlap = paired_iou(predicted_xyxy, true_xyxy)  # not detached: the confidence term moves the boxes
        giou = paired_giou(predicted_xyxy, true_xyxy)

        def mean_over_boxes(values: Tensor) -> Tensor:
            return _sum_over_frames(values, counted) * num_clips / num_boxes

        confidence = output.confidence.float()
        if self.confidence_kind == "smooth_l1":
            confidence_loss = mean_over_boxes(F.smooth_l1_loss(confidence, overlap, reduction="none"))
        else:
            # A sum of two sigmoids and yet read as a logit here, as in the original.
            entropy = F.binary_cross_entropy_with_logits(confidence, overlap, reduction="none")
            confidence_loss = _mean_over_frames(entropy, counted)
        return {
            "boxes": mean_over_boxes((predicted - true).abs().sum(-1)),
            "giou": mean_over_boxes(1 - giou),
            "confidence": confidence_loss,
            "start_end": self._start_end(output, inside),
            "actioness": self._actioness(output, inside),
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum over terms and stages of the means over clips."""
        return torch.stack([self.weights[name] * term.mean(1).sum() for name, term in terms.items()]).sum()

    def _actioness(self, output: GroundingOutput, inside: Tensor) -> Tensor:
        logits = output.actioness.float()
        weight = torch.where(inside, 1.0, _OUTSIDE_WEIGHT)
        loss = F.binary_cross_entropy_with_logits(logits, inside.float().expand_as(logits), reduction="none") * weight
        return _mean_over_frames(loss, output.frame_mask.expand_as(logits))

    def _start_end(self, output: GroundingOutput, inside: Tensor) -> Tensor:
        """Divergence of the softmax over time from a Gaussian around the true boundary, for start and end."""
        length = inside.shape[1]
        time = torch.arange(length, device=inside.device)
        first = torch.where(inside, time, length).amin(1)
        last = torch.where(inside, time, -1).amax(1)
        boundary = torch.stack((first, last), dim=-1)[:, None]  # (B, 1, 2)
        real = output.frame_mask[:, :, None]

        distance = (time[None, :, None] - boundary).float()
        target = torch.exp(-(distance**2) / (2 * _BOUNDARY_SIGMA**2)) + 1e-6
        target = target * real / (target * real).sum(1, keepdim=True)
        logits = output.start_end.float().masked_fill(~real, float("-inf"))
        probability = logits.softmax(dim=2)
        # The clamp touches padding only, where the probability is zero and the target is too.
        loss = probability * torch.log((probability + 1e-6) / target.clamp(min=1e-12))
        grounded = inside.any(1)[:, None] & output.frame_mask
        return _mean_over_frames(loss.sum(-1) * real[..., 0], grounded.expand(loss.shape[:-1]))


def _sum_over_frames(values: Tensor, mask: Tensor) -> Tensor:
    """(S, B, T) -> (S, B). Masked by selection, so that a NaN outside the mask stays outside."""
    return torch.where(mask, values, 0.0).sum(2)


def _mean_over_frames(values: Tensor, mask: Tensor) -> Tensor:
    """(S, B, T) -> (S, B); zero where the mask is empty."""
    return _sum_over_frames(values, mask) / mask.sum(2).clamp(min=1)


def _mean_over_processes(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value
