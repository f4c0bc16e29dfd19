"""The clean twin: what the tokens of a degraded clip are pulled to, whatever method tunes the grounder."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from stvg_nst.models.base import Grounder
from stvg_nst.models.encoding_store import EncodingMemory
from stvg_nst.types import BackboneFeatures, Batch, FusedTokens

# Of the tokens that a run keeps: those of 2,400 clips of the miniature, or of 60 at full size.
MOST_BYTES = 2 * 2**30


class CleanTwin:
    """The frozen grounder beside the tuned one: it sees each clip in high quality, and its tokens are the target.

    It shares all tensors with the tuned grounder but those that are trained. It is no part of the module: no
    checkpoint, optimiser or count of parameters sees it.

    Args:
        grounder: before anything is injected into it.

    Raises:
        ValueError: the grounder has no tokens ahead of its decoders.
    """

    def __init__(self, grounder: Grounder) -> None:
        if not grounder.fusion():
            raise ValueError(f"{type(grounder).__name__} has no tokens ahead of its decoders; give --model.twin 0")
        shared = {id(tensor): tensor for tensor in [*grounder.parameters(), *grounder.buffers()]}
        self._frozen = copy.deepcopy(grounder, shared).eval()

    def keep_apart(self, tuned: Grounder) -> None:
        """Copy what the tuned grounder trains, which must not move here.

        Raises:
            ValueError: nothing that is trained lies ahead of the decoders: it would get no gradient.
        """
        ahead = (*tuned.backbones(), *tuned.fusion())
        if not any(parameter.requires_grad for part in ahead for parameter in part.parameters()):
            raise ValueError(
                "--model.twin pulls the tokens ahead of the decoders, but nothing is tuned there: it would have no "
                "effect; choose a scope with the encoder (experiments/scope/encoder_all.yaml), or leave it out"
            )
        for module in self._frozen.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))

    def remember(self) -> None:
        """Keep the targets in memory; of use where clips come back with the same features, in the next epoch."""
        self._frozen.keep_encodings(EncodingMemory(MOST_BYTES))

    def to(self, device: torch.device) -> None:
        self._frozen.to(device)

    @torch.no_grad()
    def encode(self, batch: Batch) -> BackboneFeatures:
        """What the frozen grounder's visual encoders say of the frames of a batch."""
        assert batch.frames is not None, "no cache stands in for visual encoders that are trained"
        return self._frozen.encode(batch.frames, batch.frame_mask, batch.frame_sizes)

    @torch.no_grad()
    def targets(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> FusedTokens:
        """The frozen grounder's tokens of clips in high quality."""
        return self._frozen.fuse(features, frame_mask, queries)


def twin_distance(tuned: FusedTokens, target: FusedTokens, frame_mask: Tensor) -> Tensor:
    """Mean squared error between tokens, (B,) float32: the mean over the features of a clip's real tokens.

    Args:
        frame_mask: (B, T) bool, True on real frames.
    """
    real = (tuned.mask & frame_mask[..., None]).expand(tuned.tokens.shape[:-1])
    error = (tuned.tokens.float() - target.tokens.float()).square().mean(dim=-1)
    return torch.where(real, error, 0.0).sum(dim=(1, 2)) / real.sum(dim=(1, 2)).clamp(min=1)
