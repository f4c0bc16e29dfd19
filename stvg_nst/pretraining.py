"""Pretraining of the miniature: what ImageNet, MDETR and Kinetics are to the full-size model. On HQ clips only.

First the visual encoders, on dense maps of what is where and what it does, from the renderer's own annotations; then
the grounding model, over the frozen encoders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from stvg_nst.models import CGSTVG, TubeDETR
from stvg_nst.models.blocks.decoder import FrameDecoder
from stvg_nst.models.blocks.layers import FrameAttention
from stvg_nst.models.cgstvg import VideoEncoder
from stvg_nst.models.weights import save_weights
from stvg_nst.module import GroundingModule
from stvg_nst.training.accumulation import SampleMeanModule
from stvg_nst.types import BackboneFeatures, Batch, GroundingOutput, SceneBatch


class DensePretraining(SampleMeanModule):
    """Trains the image encoder to name and box the actor under each cell, the video encoder to name its action.

    Args:
        grounder: the miniature; only its visual encoders are trained, of which a TubeDETR has but the first.
        looks: names of the attributes and how many values each has.
        actions: number of actions.
        frames_per_clip: frames of each clip that the image encoder sees in a step; neighbours are nearly alike.
        learning_rate: peak of a one-cycle schedule.
        weight_decay: of AdamW.
        output: where the whole grounder's weights go at the end (.safetensors).
    """

    def __init__(
        self,
        grounder: CGSTVG | TubeDETR,
        *,
        looks: dict[str, int],
        actions: int,
        frames_per_clip: int = 4,
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-2,
        output: Path = Path("encoders.safetensors"),
    ) -> None:
        super().__init__()
        self.grounder = grounder.requires_grad_(False)
        self.visual = grounder.visual.requires_grad_(True)
        self.motion = grounder.motion.requires_grad_(True) if isinstance(grounder, CGSTVG) else None
        self.looks = looks
        # Each cell of the appearance map says: is an actor here, its attributes, its box relative to the cell.
        self.appearance_head = nn.Conv2d(self.visual.channels, 1 + sum(looks.values()) + 4, 1)
        if self.motion is not None:
            # The motion map: is an actor here, its action, how its box changes until the next frame.
            self.motion_head = nn.Conv2d(self.motion.channels, 1 + actions + 4, 1)
            look_at_neighbours_in_time(self.motion)
        self.frames_per_clip = frames_per_clip
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.output = output

    def training_step(self, batch: SceneBatch, batch_index: int) -> Tensor:
        terms = self._losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"encoders/{name}": value.detach() for name, value in terms.items()})
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def _losses(self, batch: SceneBatch) -> dict[str, Tensor]:
        return ({} if self.motion is None else self._motion_losses(self.motion, batch)) | self._appearance_losses(batch)

    def _motion_losses(self, motion: VideoEncoder, batch: SceneBatch) -> dict[str, Tensor]:
        motion_map = self.motion_head(motion(batch.frames).flatten(0, 1))
        cells = cell_targets(batch.boxes, motion_map.shape[-2:])
        presence, action, change = motion_map.tensor_split((1, motion_map.shape[1] - 4), dim=1)
        steps = batch.boxes.diff(dim=2, append=batch.boxes[:, :, -1:])
        return {
            "motion_presence": F.binary_cross_entropy_with_logits(presence[:, 0], (cells >= 0).float().flatten(0, 1)),
            "action": _cell_cross_entropy(action, _look_up(batch.actions.transpose(1, 2), cells)),
            "change": _box_loss(change, 30 * _boxes_of_cells(steps, cells), cells),
        }

    def _appearance_losses(self, batch: SceneBatch) -> dict[str, Tensor]:
        chosen = torch.randperm(batch.frames.shape[1], device=self.device)[: self.frames_per_clip]
        boxes = batch.boxes[:, :, chosen]
        maps = self.appearance_head(self.visual(batch.frames[:, chosen]).flatten(0, 1))
        cells = cell_targets(boxes, maps.shape[-2:])
        presence, *attributes, shift = maps.split([1, *self.looks.values(), 4], dim=1)
        on_actor = (cells >= 0).float().flatten(0, 1)
        terms = {"presence": F.binary_cross_entropy_with_logits(presence[:, 0], on_actor)}
        for index, (name, logits) in enumerate(zip(self.looks, attributes, strict=True)):
            labels = batch.looks[:, None, :, index].expand(-1, cells.shape[1], -1)
            terms[name] = _cell_cross_entropy(logits, _look_up(labels, cells))
        rows, columns = maps.shape[-2:]
        y = ((torch.arange(rows, device=self.device) + 0.5) / rows)[:, None].expand(rows, columns)
        x = ((torch.arange(columns, device=self.device) + 0.5) / columns)[None].expand(rows, columns)
        origin = torch.stack((x, y, torch.zeros_like(x), torch.zeros_like(y)), dim=-1)
        terms["box"] = _box_loss(shift, 10 * (_boxes_of_cells(boxes, cells) - origin), cells)
        return terms

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self._total_steps(), pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_end(self) -> None:
        if self.trainer.is_global_zero:
            save_weights(self.output, self.grounder)


class GroundingPretraining(GroundingModule):
    """Trains the miniature's grounding model, with help: its encoder is told which cells are the answer, and why.

    The full-size model starts from MDETR, which has learnt on a million captions to align words and regions. From
    random weights the box loss alone stays at the mean box: where distractors share all attributes but one, no single
    word helps much. Three dense terms on the encoder get past that; what they need beyond the encoder is thrown away in
    the end. The data module must offer ``matches(clips)``.

    * answer: each visual token that leaves the encoder says whether it is under the target's box during the event;
    * attributes: and whether its actor is of the named shape, colour and size, and does what is named;
    * attention: each head of the first layer looks from a visual token at the sentence where one attribute agrees.

    The decoder of a TubeDETR starts from queries without content, so that the box loss does not reach its attention
    either. It has a term of its own:

    * gaze: during the event each head looks from a frame's query at the cells under the target's box.
    """

    ANSWER_WEIGHT = 4.0
    ATTRIBUTE_WEIGHT = 16.0
    ATTENTION_WEIGHT = 16.0
    GAZE_WEIGHT = 4.0
    ATTRIBUTES = ("shape", "colour", "size", "action")
    HELPERS: tuple[str, ...] = ("alignment_head.weight", "alignment_head.bias", "attention_bias")

    def configure_model(self) -> None:
        if not hasattr(self, "alignment_head"):
            self.alignment_head = nn.Linear(self.grounder.width, 1 + len(self.ATTRIBUTES))
            self.attention_bias = nn.Parameter(torch.zeros(len(self.ATTRIBUTES)))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        seen: dict[str, Any] = {}
        watched = {"query": "encoder.layers.0.self_attn.q_proj", "key": "encoder.layers.0.self_attn.k_proj"}
        watched["reference"] = "reference_point"
        if isinstance(self.grounder, TubeDETR):
            for index in range(len(self.grounder.decoder.layers)):
                watched[f"gaze_query{index}"] = f"decoder.layers.{index}.cross_attn.q_proj"
                watched[f"gaze_key{index}"] = f"decoder.layers.{index}.cross_attn.k_proj"
        hooks = [
            self.grounder.get_submodule(path).register_forward_hook(
                lambda module, inputs, output, name=name: seen.__setitem__(name, output)
            )
            for name, path in watched.items()
        ]
        loss = super().training_step(batch, batch_index)
        for hook in hooks:
            hook.remove()
        return loss + self._dense_loss(seen | {"tokens": self._fused.tokens}, batch)

    def _ground(self, features: BackboneFeatures, batch: Batch) -> GroundingOutput:
        output = super()._ground(features, batch)
        assert output.fused is not None, "both miniatures say their tokens"
        self._fused = output.fused
        return output

    def _dense_loss(self, seen: Mapping[str, Any], batch: Batch) -> Tensor:
        """The weighted sum of the dense terms; seen is what the watched modules gave, and the memory's tokens."""
        grid = _Grid.of(batch)
        answer, *attributes = self.alignment_head(grid.visual(seen["tokens"])).unbind(-1)
        # The encoder of a TubeDETR sees some frames only; the first of them is the first of all.
        step = self.grounder.stride if isinstance(self.grounder, TubeDETR) else 1
        attention = self._attention_logits(
            grid.visual(seen["query"]), grid.words(seen["key"][:, 0]), seen["reference"].text_mask
        )
        answer_loss = self._answer_loss(answer, batch, grid)
        attribute_loss = self._attribute_loss(torch.stack(attributes, dim=-1), batch, grid)
        attention_loss = self._attribute_loss(attention, batch, grid, step)
        gaze_loss = answer_loss.new_zeros(())
        if isinstance(self.grounder, TubeDETR):
            gaze_loss = self._gaze_loss(self.grounder.decoder, seen, batch, grid)
            self.log("train/alignment/gaze", gaze_loss.detach(), batch_size=len(batch))
        self.log("train/alignment/answer", answer_loss.detach(), batch_size=len(batch))
        for index, name in enumerate(self.ATTRIBUTES):
            self.log(f"train/alignment/{name}", attribute_loss[index].detach(), batch_size=len(batch))
            self.log(f"train/attention/{name}", attention_loss[index].detach(), batch_size=len(batch))
        return (
            self.ANSWER_WEIGHT * answer_loss
            + self.ATTRIBUTE_WEIGHT * attribute_loss.mean()
            + self.ATTENTION_WEIGHT * attention_loss.mean()
            + self.GAZE_WEIGHT * gaze_loss
        )

    def _attention_logits(self, query: Tensor, key: Tensor, text_mask: Tensor) -> Tensor:
        """How much each head looks from cells (V, B, T, h * w, D) at any word (B, L, D): (V, B, T, h * w, 4)."""
        heads = len(self.ATTRIBUTES)
        query, key = query.unflatten(-1, (heads, -1)), key.unflatten(-1, (heads, -1))
        logits = torch.einsum("vbtnhd,blhd->vbtnhl", query, key) / query.shape[-1] ** 0.5
        logits = logits.masked_fill(~text_mask[:, None, None, None], float("-inf"))
        return logits.logsumexp(-1) + self.attention_bias

    def _answer_loss(self, logits: Tensor, batch: Batch, grid: _Grid) -> Tensor:
        """Cross-entropy of cells (V, B, T, h * w) against: under the target's box, while the event lasts.

        The sum over all cells as a share of the few that are, so that these weigh as much as a clip's boxes do.
        """
        under = _cells_of_target(batch, grid).float()
        loss = F.binary_cross_entropy_with_logits(logits, under.expand_as(logits), reduction="sum")
        return loss / (len(logits) * under.sum()).clamp(min=1)

    def _gaze_loss(self, decoder: FrameDecoder, seen: Mapping[str, Any], batch: Batch, grid: _Grid) -> Tensor:
        """The mean of :func:`gaze_loss` over the decoder's layers; seen is what their queries and keys were."""
        under = F.pad(_cells_of_target(batch, grid), (0, seen["tokens"].shape[2] - grid.cells))
        looks = [module for module in decoder.modules() if isinstance(module, FrameAttention)]
        losses = [
            gaze_loss(
                seen[f"gaze_query{index}"],
                seen[f"gaze_key{index}"],
                under,
                num_heads=look.num_heads,
                mask=self._fused.mask,
            )
            for index, look in enumerate(looks)
        ]
        return torch.stack(losses).mean()

    def _attribute_loss(self, logits: Tensor, batch: Batch, grid: _Grid, step: int = 1) -> Tensor:
        """Cross-entropies (4,) of cells (V, B, T, h * w, 4) against: the actor here is of the named shape, ...

        Args:
            step: from one of the T frames to the next, in sampled frames.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        boxes, agreements = (values[:, :, ::step].to(logits.device) for values in data.matches(batch.clips))
        cells = cell_targets(boxes, grid.size).flatten(2)
        index = cells.clamp(min=0)[..., None].expand(-1, -1, -1, 4)
        agreement = agreements.transpose(1, 2).gather(2, index).expand_as(logits)
        loss = F.binary_cross_entropy_with_logits(logits, agreement, reduction="none") * (cells >= 0)[..., None]
        return loss.sum((0, 1, 2, 3)) / (len(logits) * (cells >= 0).sum()).clamp(min=1)

    def trained_parameters(self) -> list[nn.Parameter]:
        helpers = dict(self.named_parameters())
        return [*super().trained_parameters(), *(helpers[name] for name in self.HELPERS)]

    def _tuned_names(self) -> set[str]:
        return super()._tuned_names() | set(self.HELPERS)


class BoxPretraining(GroundingPretraining):
    """Goes on where :class:`GroundingPretraining` has ended, with a fourth dense term: where the boxes are.

    The box head answers in coordinates of the frame, but the decoder's attention mixes values that know of their place
    only what the convolutions' padding has let through. So each visual token that leaves the encoder is asked for the
    box of the actor that it is under.
    """

    EXTENT_WEIGHT = 10.0
    HELPERS = (*GroundingPretraining.HELPERS, "extent_head.weight", "extent_head.bias")

    def configure_model(self) -> None:
        super().configure_model()
        if not hasattr(self, "extent_head"):
            self.extent_head = nn.Linear(self.grounder.width, 4)

    def _dense_loss(self, seen: Mapping[str, Any], batch: Batch) -> Tensor:
        grid = _Grid.of(batch)
        extent_loss = self._extent_loss(self.extent_head(grid.visual(seen["tokens"])), batch, grid)
        self.log("train/alignment/extent", extent_loss.detach(), batch_size=len(batch))
        return super()._dense_loss(seen, batch) + self.EXTENT_WEIGHT * extent_loss

    def _extent_loss(self, logits: Tensor, batch: Batch, grid: _Grid) -> Tensor:
        """L1 distance of cells (V, B, T, h * w, 4) to the box, in shares of the frame, of the actor they are under."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        boxes = data.matches(batch.clips)[0].to(logits.device)
        cells = cell_targets(boxes, grid.size)
        true = _boxes_of_cells(boxes, cells).view(*cells.shape, 4).flatten(2, 3)
        error = (logits.sigmoid() - true).abs().sum(-1) * (cells >= 0).flatten(2)
        return error.sum() / (len(logits) * (cells >= 0).sum()).clamp(min=1)


class _Grid(NamedTuple):
    """Where cells are among the tokens of a frame: appearance, words, and motion where there is one.

    size is rows and columns of the backbones' feature maps; kinds is V, 1 or 2.
    """

    size: tuple[int, int]
    kinds: int

    @classmethod
    def of(cls, batch: Batch) -> _Grid:
        assert batch.features is not None
        rows, columns = batch.features.cell_mask.shape[1:]
        return cls((rows, columns), len(batch.features.maps))

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]

    def visual(self, tokens: Tensor) -> Tensor:
        """Cells of each kind (V, B, T, h * w, D) among all tokens (B, T, M, D)."""
        return torch.stack((tokens[:, :, : self.cells], tokens[:, :, -self.cells :])[: self.kinds])

    def words(self, tokens: Tensor) -> Tensor:
        """(B, L, D) among the tokens of a frame (B, M, D)."""
        return tokens[:, self.cells : tokens.shape[1] - self.cells * (self.kinds - 1)]


def gaze_loss(query: Tensor, key: Tensor, target: Tensor, *, num_heads: int, mask: Tensor) -> Tensor:
    """Minus the logarithm of the share of each head's attention that the target gets, a mean over heads and frames.

    Args:
        query: (B, T, D), one a frame.
        key: (B, T, M, D), of its memory.
        target: (B, T, M) bool; frames without a target do not count.
        mask: (B, 1 or T, M) bool, True on real tokens.
    """
    query, key = query.unflatten(-1, (num_heads, -1)), key.unflatten(-1, (num_heads, -1))
    logits = torch.einsum("bthd,btmhd->bthm", query, key) / query.shape[-1] ** 0.5
    attention = logits.masked_fill(~mask[:, :, None], -math.inf).log_softmax(-1)
    on_target = attention.masked_fill(~target[:, :, None], -math.inf).logsumexp(-1)[target.any(-1)]
    return -on_target.sum() / max(on_target.numel(), 1)


def _cells_of_target(batch: Batch, grid: _Grid) -> Tensor:
    """(B, T, h * w) bool: cells under the target's box, while the event lasts."""
    boxes = batch.boxes * batch.inside[..., None]
    return (cell_targets(boxes[:, None], grid.size) >= 0).flatten(2)


def cell_targets(boxes: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Which actor is under each cell's centre: (B, A, T, 4) cxcywh -> (B, T, h, w) int64, -1 for none.

    Where boxes overlap, the actor whose own centre is nearer wins. Padding actors have empty boxes.
    """
    rows, columns = grid
    y = (torch.arange(rows, device=boxes.device) + 0.5) / rows
    x = (torch.arange(columns, device=boxes.device) + 0.5) / columns
    cx, cy, w, h = (value[..., None, None] for value in boxes.unbind(-1))
    dx, dy = (x[None, :] - cx).abs(), (y[:, None] - cy).abs()  # (B, A, T, h, w)
    distance = torch.where((dx <= w / 2) & (dy <= h / 2), dx**2 + dy**2, math.inf)
    nearest, actor = distance.min(dim=1)
    return torch.where(nearest.isfinite(), actor, -1)


def _look_up(labels: Tensor, cells: Tensor) -> Tensor:
    """(B, T, A) labels of actors -> (B * T, h, w) labels of cells, -1 where there is no actor."""
    by_cell = labels.gather(2, cells.clamp(min=0).flatten(2)).view_as(cells)
    return torch.where(cells >= 0, by_cell, -1).flatten(0, 1)


def _cell_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, ignore_index=-1)


def _boxes_of_cells(boxes: Tensor, cells: Tensor) -> Tensor:
    """(B, A, T, 4) values of actors -> (B * T, h, w, 4) values of the cells that they are under."""
    index = cells.clamp(min=0).flatten(2)[..., None].expand(-1, -1, -1, 4)
    return boxes.transpose(1, 2).gather(2, index).view(*cells.shape, 4).flatten(0, 1)


def _box_loss(predicted: Tensor, true: Tensor, cells: Tensor) -> Tensor:
    """Smooth L1 of (B * T, 4, h, w) against (B * T, h, w, 4), the mean over cells with an actor."""
    error = F.smooth_l1_loss(predicted.permute(0, 2, 3, 1), true, reduction="none").sum(-1)
    on_actor = (cells >= 0).flatten(0, 1)
    return (error * on_actor).sum() / on_actor.sum().clamp(min=1)


def look_at_neighbours_in_time(encoder: VideoEncoder, sharpness: float = 2.0) -> None:
    """Starts each attention head of a Video Swin at one offset in time, at the same place.

    Relative position biases start near zero otherwise, so that all positions of a window look alike at first; to learn
    a comparison of neighbouring frames from there takes longer than the miniature's whole pretraining.
    """
    for module in encoder.modules():
        if not isinstance(module, ShiftedWindowAttention3d):
            continue
        time, row, column = (torch.arange(1 - size, size) for size in module.window_size)
        place = row.abs()[:, None] + column.abs()[None, :]
        for head in range(module.num_heads):
            offset = (head + 1) // 2 * (-1) ** head  # 0, -1, 1, -2, 2, ...
            bias = -sharpness * ((time - offset).abs()[:, None, None] + place[None])
            module.relative_position_bias_table.data[:, head] += bias.clamp(min=-4 * sharpness).flatten()
