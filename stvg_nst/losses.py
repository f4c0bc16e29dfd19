"""The grounding objective: L_ground of eq. (6)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.boxes import cxcywh_to_xyxy, paired_giou, paired_iou
from stvg_nst.types import Batch, GroundingOutput, with_box

_OUTSIDE_WEIGHT = 0.3  # of frames outside the tube in the actioness term


class GroundingLoss(nn.Module):
    """Weighted terms of what a grounder says, summed over the decoder stages; the defaults are CG-STVG's on HC-STVG.

    A term is computed where its weight is above 0, and what it compares must then be said by the grounder.

    In training, box terms are means over the true boxes of an optimiser step, as far as the batch says what the step
    holds (``Batch.step``), else over those of this batch in all processes. In evaluation they are means over a clip: no
    value depends on what else is in a batch, and no process waits for another, which may have a batch less. The other
    terms are always means over a clip, so that a batch of one gives the original's values. A true box without an area
    teaches nothing about boxes and their confidence, but its frame is in the tube.

    Args:
        boxes, giou, confidence, start_end, actioness: weight of each term.
        guided_attention: weight of the term that keeps queries outside the tube from looking at any frame.
        confidence_kind: of the confidence term. ``cross_entropy`` is what the original runs; ``smooth_l1``, meant for
            VidSTG, is only a comment there; it is a mean over all true boxes, as the box terms are.
        boundary_sigma: spread of the target around the true start and end, in sampled frames.
        without_tube: what start and end are told of a clip without a frame of the tube: ``nothing``, or that all frames
            are alike (``uniform``).

    Raises:
        ValueError: a weight is negative, or none is above 0.

    Source: CG-STVG (Gu et al., CVPR 2024); guided attention: TubeDETR (Yang et al., CVPR 2022).
    """

    def __init__(
        self,
        *,
        boxes: float = 5.0,
        giou: float = 4.0,
        confidence: float = 1.0,
        start_end: float = 10.0,
        actioness: float = 2.0,
        guided_attention: float = 0.0,
        confidence_kind: Literal["cross_entropy", "smooth_l1"] = "cross_entropy",
        boundary_sigma: float = 2.0,
        without_tube: Literal["nothing", "uniform"] = "nothing",
    ) -> None:
        super().__init__()
        weights = {
            "boxes": boxes,
            "giou": giou,
            "confidence": confidence,
            "start_end": start_end,
            "actioness": actioness,
            "guided_attention": guided_attention,
        }
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(f"weights of the loss must be at least 0, and one of them above, got {weights}")
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        self.confidence_kind = confidence_kind
        self.boundary_sigma = boundary_sigma
        self.without_tube = without_tube

    def forward(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        """Unweighted terms by name, each (S, B): its mean over clips is the term of that decoder stage.

        Raises:
            ValueError: the grounder does not say what a term compares.
        """
        terms: dict[str, Tensor] = {}
        if self.weights.keys() & {"boxes", "giou", "confidence"}:
            terms |= self._boxes(output, batch)
        if "start_end" in self.weights:
            terms["start_end"] = self._start_end(output, batch.inside)
        if "actioness" in self.weights:
            terms["actioness"] = self._actioness(output, batch.inside)
        if "guided_attention" in self.weights:
            terms["guided_attention"] = self._guided_attention(output, batch.inside)
        return {name: terms[name] for name in self.weights}

    def _said(self, value: Tensor | None, term: str, what: str) -> Tensor:
        if value is None:
            raise ValueError(
                f"the loss weighs {term} by {self.weights[term]:g}, but the grounder says no {what}; set "
                f"--model.loss.init_args.{term} 0, or leave out --model.loss for the grounder's own objective"
            )
        return value.float()

    def _boxes(self, output: GroundingOutput, batch: Batch) -> dict[str, Tensor]:
        """The terms over true boxes."""
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

        def mean_over_boxes(values: Tensor) -> Tensor:
            return _sum_over_frames(values, counted) * num_clips / num_boxes

        predicted_xyxy, true_xyxy = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)
        terms = {
            "boxes": mean_over_boxes((predicted - true).abs().sum(-1)),
            "giou": mean_over_boxes(1 - paired_giou(predicted_xyxy, true_xyxy)),
        }
        if "confidence" in self.weights:
            overlap = paired_iou(predicted_xyxy, true_xyxy)  # not detached: the confidence term moves the boxes
            confidence = self._said(output.confidence, "confidence", "confidence of its boxes")
            if self.confidence_kind == "smooth_l1":
                terms["confidence"] = mean_over_boxes(F.smooth_l1_loss(confidence, overlap, reduction="none"))
            else:
                # A sum of two sigmoids and yet read as a logit here, as in the original.
                entropy = F.binary_cross_entropy_with_logits(confidence, overlap, reduction="none")
                terms["confidence"] = _mean_over_frames(entropy, counted)
        return terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """The weighted sum over terms and stages of the means over clips."""
        return torch.stack([self.weights[name] * term.mean(1).sum() for name, term in terms.items()]).sum()

    def _actioness(self, output: GroundingOutput, inside: Tensor) -> Tensor:
        logits = self._said(output.actioness, "actioness", "actioness")
        weight = torch.where(inside, 1.0, _OUTSIDE_WEIGHT)
        loss = F.binary_cross_entropy_with_logits(logits, inside.float().expand_as(logits), reduction="none") * weight
        return _mean_over_frames(loss, output.frame_mask.expand_as(logits))

    def _guided_attention(self, output: GroundingOutput, inside: Tensor) -> Tensor:
        """Of queries of frames outside the tube, the mean of -log(1 - weight), summed over the frames they look at."""
        attention = self._said(output.time_attention, "guided_attention", "attention over time")
        # After dropout a weight may exceed 1, and the logarithm would not be finite.
        loss = -torch.log((1 - attention + 1e-6).clamp(min=1e-6))
        seen = torch.where(output.frame_mask[:, None], loss, 0.0).sum(-1)
        return _mean_over_frames(seen, (output.frame_mask & ~inside).expand_as(seen))

    def _start_end(self, output: GroundingOutput, inside: Tensor) -> Tensor:
        """Divergence of the softmax over time from a Gaussian around the true boundary, for start and end."""
        length = inside.shape[1]
        time = torch.arange(length, device=inside.device)
        first = torch.where(inside, time, length).amin(1)
        last = torch.where(inside, time, -1).amax(1)
        boundary = torch.stack((first, last), dim=-1)[:, None]  # (B, 1, 2)
        real = output.frame_mask[:, :, None]
        has_tube = inside.any(1)[:, None]

        distance = (time[None, :, None] - boundary).float()
        target = torch.exp(-(distance**2) / (2 * self.boundary_sigma**2)) * has_tube[..., None] + 1e-6
        target = target * real / (target * real).sum(1, keepdim=True)
        logits = output.start_end.float().masked_fill(~real, float("-inf"))
        probability = logits.softmax(dim=2)
        # The clamp touches padding only, where the probability is zero and the target is too.
        loss = probability * torch.log((probability + 1e-6) / target.clamp(min=1e-12))
        told = output.frame_mask if self.without_tube == "uniform" else output.frame_mask & has_tube
        return _mean_over_frames(loss.sum(-1) * real[..., 0], told.expand(loss.shape[:-1]))


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
