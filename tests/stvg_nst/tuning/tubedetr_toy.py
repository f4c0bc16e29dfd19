"""A small TubeDETR in the place of the toy: its slow frames, its fast branch and its projection, under every tuner."""

from __future__ import annotations

import torch
from torch import Tensor

from stvg_nst.models import TubeDETR
from stvg_nst.types import GroundingOutput
from tests.stvg_nst.models.small import small_tubedetr

TARGETS = ("encoder.layers.*.ffn.linear2", "decoder.layers.*.ffn.linear2", "box_head.layers.2")
SCOPE = ("encoder", "decoder", "box_head")
LEAKING = "encoder.layers.0.ffn.linear1"
INPUTS = "visual_proj"


def ToyGrounder() -> TubeDETR:
    with torch.random.fork_rng(devices=[]):
        return small_tubedetr()


def toy_batch(seed: int = 0) -> tuple[Tensor, Tensor, list[str]]:
    """Frames (3, 5, 3, 32, 48), of which the second clip has 3; their mask; sentences of 4, 2 and 6 words."""
    frames = torch.randn(3, 5, 3, 32, 48, generator=torch.Generator().manual_seed(seed))
    frame_mask = torch.ones(3, 5, dtype=torch.bool)
    frame_mask[1, 3:] = False
    frames[1, 3:] = 0
    return frames, frame_mask, ["a red star jumps", "who spins", "the small blue square slides left"]


def flat(output: GroundingOutput) -> Tensor:
    """Everything the model says of frames, (S, B, T, 6)."""
    return torch.cat([output.boxes, output.start_end], dim=-1)


def pretrained() -> TubeDETR:
    return ToyGrounder().eval().requires_grad_(False)
