"""Attention by content and position, against plain attention over the features of both side by side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.attention import side_by_side
from stvg_nst.models.cgstvg.conditional import attend_conditionally

CLIPS, FRAMES, TOKENS, WIDTH, HEADS = 2, 3, 7, 8, 2


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("frames_of_positions", [1, FRAMES], ids=["shared by all frames", "each frame its own"])
@pytest.mark.parametrize("frames_of_mask", [1, FRAMES])
def test_scores_by_content_and_position_are_those_of_both_side_by_side(
    frames_of_positions: int, frames_of_mask: int
) -> None:
    torch.manual_seed(0)
    queries = normal(CLIPS, FRAMES, WIDTH), normal(CLIPS, FRAMES, WIDTH)
    key, value = normal(CLIPS, FRAMES, TOKENS, WIDTH), normal(CLIPS, FRAMES, TOKENS, WIDTH)
    key_position = normal(CLIPS, frames_of_positions, TOKENS, WIDTH)
    mask = torch.rand(CLIPS, frames_of_mask, TOKENS) > 0.4
    mask[..., 0] = True
    inputs = (*queries, key, key_position, value)

    mixed = attend_conditionally(
        (queries[0], key), (queries[1], key_position), value, num_heads=HEADS, mask=mask, dropout=0.0
    )
    expected = side_by_side(HEADS, mask)(*inputs)

    torch.testing.assert_close(mixed, expected)
    weight = torch.randn_like(expected)
    gradients = (torch.autograd.grad((x * weight).sum(), inputs) for x in (mixed, expected))
    torch.testing.assert_close(*gradients)


def test_dropout_thins_the_weights_and_keeps_their_mean() -> None:
    torch.manual_seed(0)
    ones = torch.ones(1, 1, 1, 1), torch.ones(1, 1, 4, 1)
    pair = ones[0][..., 0], ones[1]
    samples = torch.stack(
        [
            attend_conditionally(
                pair, pair, ones[1], num_heads=1, mask=torch.ones(1, 1, 4, dtype=torch.bool), dropout=0.5
            )
            for _ in range(2000)
        ]
    )
    # Each of 4 equal weights is dropped or doubled.
    torch.testing.assert_close(samples.unique(), torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0]))
    assert samples.mean() == pytest.approx(1.0, abs=0.05)
