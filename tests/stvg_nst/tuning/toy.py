"""A grounder of a few thousand parameters with everything that may go wrong under tuning: a residual FFN, dropout,
batch statistics, a shared head, padding in space, time and text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stvg_nst.losses import GroundingLoss
from stvg_nst.models.base import Grounder, ReferencePoint, TokenGrid, TokenLayer, frozen_layer
from stvg_nst.tuning.nst import NullSpaceLinear, NullSpaceTuning
from stvg_nst.types import BackboneFeatures, GroundingOutput

TARGETS = ("encoder.linear2", "decoder.linear2", "head")
SCOPE = ("encoder", "decoder", "head")
LEAKING = "encoder.linear1"
INPUTS = "pixels"  # what the tokens of the reference point come from; it has 3 inputs


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, hidden)
        self.dropout = nn.Dropout(0.5)
        self.linear2 = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.linear2(self.dropout(self.linear1(x).relu())))


class EncoderLayer(FeedForward, TokenLayer):
    """A perceptron of tokens that have attended to each other, without weights for that."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(width, hidden)
        self.width = width

    def forward(self, tokens: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        placed, visible = tokens + positions, mask[..., None, :].expand(*tokens.shape[:2], -1, -1)
        attended = nn.functional.scaled_dot_product_attention(placed, placed, tokens, visible)
        return super().forward(tokens + attended)


class ToyGrounder(Grounder):
    """16 wide; the head (16 -> 9) is shared by two decoder stages and hangs on the model under two names."""

    width = 16
    feature_channels = (3, 3)

    def __init__(self, seed: int = 0, *, checkpointing: bool | None = None) -> None:
        super().__init__()
        self.checkpointing = checkpointing  # None: off; else `use_reentrant`
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pixels = nn.Linear(3, self.width)
            self.statistics = nn.BatchNorm1d(self.width)
            self.words = nn.Embedding(50, self.width)
            self.reference_point = ReferencePoint()
            self.encoder = EncoderLayer(self.width, 40)
            self.decoder = FeedForward(self.width, 48)
            self.head = nn.Linear(self.width, 9)
        self.alias = nn.ModuleList([self.head])

    def backbones(self) -> tuple[nn.Module, ...]:
        return ()

    def objective(self) -> GroundingLoss:
        return GroundingLoss()

    def encode(self, frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]]) -> BackboneFeatures:
        cells = nn.functional.adaptive_avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2])
        return BackboneFeatures(cells, cells, torch.ones(len(frames), 2, 2, dtype=torch.bool, device=frames.device))

    def ground(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> GroundingOutput:
        cells = features.appearance.flatten(3).transpose(2, 3)  # (B, T, 4, 3)
        visual = self.normalise(frozen_layer(self.pixels)(cells))
        visual_mask = features.cell_mask.flatten(1)[:, None] & frame_mask[..., None]
        text, text_mask = self.read(queries)
        shared_text = text[:, None].expand(-1, frame_mask.shape[1], -1, -1)
        shared_mask = text_mask[:, None].expand(-1, frame_mask.shape[1], -1) & frame_mask[..., None]
        memory_mask = torch.cat([visual_mask, shared_mask], dim=2)
        grids = (TokenGrid(features.cell_mask.flatten(1)[:, None].expand_as(visual_mask)),)
        self.reference_point(visual, visual_mask, text, text_mask, frame_mask, memory_mask, features, grids)
        if frozen_layer(self.pixels) is not self.pixels:
            visual = self.normalise(self.pixels(cells))

        memory = torch.cat([visual, shared_text], dim=2)
        positions = torch.zeros_like(memory[:, :1])
        # What a padded frame sees does not matter, but it must see something.
        token_mask = torch.cat([features.cell_mask.flatten(1), text_mask], dim=1)[:, None]
        if self.checkpointing is None:
            memory = self.encoder(memory, positions, token_mask)
        else:
            # A reentrant checkpoint needs an input that requires a gradient to take part in the backward pass.
            memory = checkpoint(
                self.encoder, memory.requires_grad_(), positions, token_mask, use_reentrant=self.checkpointing
            )
        pooled = memory.masked_fill(~memory_mask[..., None], 0.0).sum(2) / memory_mask.sum(2, keepdim=True).clamp(min=1)
        stages = [self.head(pooled), self.head(pooled + self.decoder(pooled))]
        out = torch.stack(stages)  # (S, B, T, 9)
        return GroundingOutput(
            boxes=out[..., :4].sigmoid(),
            confidence=2 * out[..., 4].sigmoid(),
            start_end=out[..., 5:7],
            actioness=out[..., 7] + out[..., 8],
            frame_mask=frame_mask,
        )

    def normalise(self, visual: Tensor) -> Tensor:
        return self.statistics(visual.flatten(0, 2).T[None]).squeeze(0).T.view_as(visual)

    def read(self, queries: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = [[zlib.crc32(word.encode()) % 50 for word in query.split()] for query in queries]
        length = max(map(len, ids))
        mask = torch.tensor([[i < len(row) for i in range(length)] for row in ids], device=self.words.weight.device)
        padded = torch.tensor([row + [0] * (length - len(row)) for row in ids], device=self.words.weight.device)
        return self.words(padded), mask


class ReadingToy(ToyGrounder):
    """Its words run through a linear layer, which lies ahead of the reference point."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = nn.Linear(self.width, self.width)

    def read(self, queries: Sequence[str]) -> tuple[Tensor, Tensor]:
        words, mask = super().read(queries)
        return self.reading(words), mask


def toy_batch(seed: int = 0, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, list[str]]:
    """Frames (3, 5, 3, 8, 8), of which the second clip has 3; their mask; sentences of 4, 2 and 6 words."""
    frames = torch.randn(3, 5, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    frame_mask = torch.ones(3, 5, dtype=torch.bool)
    frame_mask[1, 3:] = False
    frames[1, 3:] = 0
    return frames, frame_mask, ["a red star jumps", "who spins", "the small blue square slides left"]


def flat(output: GroundingOutput) -> Tensor:
    """Everything the model says, as logits or values in one tensor (S, B, T, 8)."""
    single = (output.confidence[..., None], output.actioness[..., None])
    return torch.cat([output.boxes, output.start_end, *single], dim=-1)


def pretrained(seed: int = 0) -> ToyGrounder:
    """The model as it is, to compare with; frozen, because torch picks other kernels for weights that are not."""
    return ToyGrounder(seed).eval().requires_grad_(False)


def layers_of(grounder: nn.Module) -> list[NullSpaceLinear]:
    return [module for module in grounder.modules() if isinstance(module, NullSpaceLinear)]


def train(grounder: nn.Module, tuner: NullSpaceTuning, *, steps: int = 3) -> None:
    """A few steps of null-space tuning, on batches of one high- and two low-quality clips."""
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(grounder), lr=1e-2)
    tuner.set_training(grounder, True)
    for step in range(steps):
        output = flat(grounder(*toy_batch(step)))
        losses = tuner.auxiliary_losses(torch.tensor([0, 1, 1]))
        total = output.square().mean() + sum(tuner.loss_weights[name] * loss for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    tuner.set_training(grounder, False)
