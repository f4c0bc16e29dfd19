"""Every grounder at a size for tests, with what its initial values would hide; a new one joins by one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stvg_nst.models import CGSTVG, Grounder, TubeDETR
from stvg_nst.models.blocks import ImageEncoder, TextEncoder
from stvg_nst.models.cgstvg import VideoEncoder
from stvg_nst.types import GroundingOutput

QUERIES = ("a small red star jumps up and down", "what large thing spins?")


def small_cgstvg() -> CGSTVG:
    torch.manual_seed(0)
    return CGSTVG(
        ImageEncoder("resnet10t", 3, {"stem_width": 16, "channels": [8, 16, 24, 24]}),
        VideoEncoder(patch=8, width=16, depths=(1, 2), num_heads=(1, 2), window=(8, 4, 4)),
        TextEncoder("stvg_nst/models/mini", 32),
        num_heads=4,
        hidden=64,
        encoder_depth=2,
        decoder_depth=2,
        # Low enough that random weights find context frames.
        actioness_threshold=-1.0,
        confidence_threshold=0.9,
    ).eval()


def small_tubedetr() -> TubeDETR:
    torch.manual_seed(0)
    grounder = TubeDETR(
        ImageEncoder("resnet10t", 3, {"stem_width": 16, "channels": [8, 16, 24, 24]}),
        TextEncoder("stvg_nst/models/mini", 32),
        stride=2,
        num_heads=4,
        hidden=64,
        encoder_depth=2,
        decoder_depth=2,
    ).eval()
    torch.nn.init.normal_(grounder.fast_residual.weight, std=0.3)  # it starts at zero
    return grounder


GROUNDERS: dict[str, Callable[[], Grounder]] = {"CGSTVG": small_cgstvg, "TubeDETR": small_tubedetr}


def clip(length: int, height: int, width: int, seed: int) -> Tensor:
    return torch.randn(1, length, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(grounder: Grounder, frames: Tensor, query: str) -> GroundingOutput:
    return grounder(frames, torch.ones(frames.shape[:2], dtype=torch.bool), (query,))


@torch.no_grad()
def assert_each_clip_is_as_if_alone(grounder: Grounder, lengths: tuple[int, int]) -> None:
    clips = [clip(lengths[0], 64, 96, seed=1), clip(lengths[1], 96, 64, seed=2)]
    frames = torch.full((2, max(lengths), 3, 96, 96), 7.0)
    frame_mask = torch.zeros(2, max(lengths), dtype=torch.bool)
    for row, x in enumerate(clips):
        frames[row, : x.shape[1], :, : x.shape[3], : x.shape[4]] = x[0]
        frame_mask[row, : x.shape[1]] = True
    together = grounder(frames, frame_mask, QUERIES, [tuple(x.shape[-2:]) for x in clips])
    for row, x in enumerate(clips):
        alone = run(grounder, x, QUERIES[row])
        length = x.shape[1]
        for name, value in alone.answers.items():
            torch.testing.assert_close(together.answers[name][:, row, :length], value[:, 0], atol=1e-5, rtol=0)
