"""What is CG-STVG's own, at the miniature's size; test_grounders.py has what it shares with every grounder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.cgstvg import ImageEncoder, TextEncoder, VideoEncoder
from stvg_nst.models.cgstvg.regions import pool_regions, region_bounds
from tests.stvg_nst.models.small import QUERIES, assert_each_clip_is_as_if_alone, clip, small_cgstvg


@pytest.fixture(scope="module")
def grounder() -> CGSTVG:
    return small_cgstvg()


@pytest.mark.slow
def test_a_clip_in_a_batch_is_as_if_alone_at_full_size(build_full_size: Callable[[], CGSTVG]) -> None:
    torch.manual_seed(0)
    model = build_full_size().eval()
    # Low enough that random weights find context frames.
    model.actioness_threshold, model.confidence_threshold = -1.0, 0.9
    assert_each_clip_is_as_if_alone(model, (4, 1))


@torch.no_grad()
def test_context_changes_the_boxes_and_its_absence_is_no_nan(grounder: CGSTVG) -> None:
    frames = clip(6, 64, 64, seed=0)
    mask = torch.ones(1, 6, dtype=torch.bool)
    features = grounder.encode(frames, mask)
    boxes = {
        chosen: grounder.ground(
            features, mask, QUERIES[:1], lambda b, c, all_=chosen: torch.full_like(mask, all_)
        ).boxes
        for chosen in (True, False)
    }
    assert boxes[False].isfinite().all()
    torch.testing.assert_close(boxes[True][0], boxes[False][0])  # the first layer has no context yet
    assert (boxes[True][1] - boxes[False][1]).abs().max() > 1e-4


def test_gradients_of_clips_without_context_are_finite(grounder: CGSTVG) -> None:
    frames, mask = clip(4, 64, 64, seed=3), torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        features = grounder.encode(frames, mask)
    output = grounder.ground(features, mask, QUERIES[:1], lambda boxes, confidence: torch.zeros_like(mask))
    (output.boxes.sum() + output.confidence.sum()).backward()
    gradients = [p.grad for p in grounder.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)
    grounder.zero_grad()


def test_a_frozen_encoder_keeps_nothing_for_a_backward_pass(grounder: CGSTVG) -> None:
    frames, mask = clip(2, 64, 64, seed=3), torch.ones(1, 2, dtype=torch.bool)
    grounder.motion.requires_grad_(False)
    features = grounder.encode(frames, mask)
    grounder.motion.requires_grad_(True)
    assert features.appearance.requires_grad and not features.motion.requires_grad


def test_encoders_of_different_strides_are_refused() -> None:
    with pytest.raises(ValueError, match="same stride, got 32 and 16"):
        CGSTVG(
            ImageEncoder("resnet10t", 4, {"stem_width": 16, "channels": [8, 16, 24, 24]}),
            VideoEncoder(patch=8, width=16, depths=(1, 1), num_heads=(1, 2), window=(8, 4, 4)),
            TextEncoder("stvg_nst/models/mini", 32),
        )


@pytest.mark.parametrize(("query", "message"), [("  ", "blank sentence"), ("star " * 60, "at most 48 tokens, got")])
def test_impossible_sentences_are_refused(grounder: CGSTVG, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grounder.text((query,))


@torch.no_grad()
def test_the_case_of_a_sentence_does_not_matter(grounder: CGSTVG) -> None:
    lower, upper = grounder.text(("a red star",))[0], grounder.text(("A Red STAR",))[0]
    torch.testing.assert_close(lower, upper)


def test_a_text_encoder_may_read_capitals() -> None:
    reading = TextEncoder("stvg_nst/models/mini", 32, lower_case=False)
    small, capital = (reading.token_ids(query) for query in ("a red star", "A Red STAR"))
    assert small != capital and tuple(reading.tokenize(["A Red STAR"]).ids[0].tolist()) == capital
    assert small == TextEncoder("stvg_nst/models/mini", 32).token_ids("A Red STAR")
    assert "at most 48 tokens" in reading.query_faults(["STAR " * 30])[0] and not reading.query_faults(["star " * 30])


def test_region_of_every_box_holds_at_least_one_cell_of_the_clip_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(2, 500, 4, generator=generator) * 1.4 - 0.2
    sizes = torch.tensor([[4, 7], [6, 3]])
    left, top, right, bottom = region_bounds(boxes, sizes).unbind(-1)
    assert (left >= 0).all() and (top >= 0).all() and (left < right).all() and (top < bottom).all()
    assert (right <= sizes[:, 1:]).all() and (bottom <= sizes[:, :1]).all()


def test_pooled_regions_are_means_over_their_cells() -> None:
    features = torch.randn(2, 3, 5, 6, 4, generator=torch.Generator().manual_seed(0))
    bounds = torch.tensor([1, 0, 4, 2]).expand(2, 3, 4)
    torch.testing.assert_close(pool_regions(features, bounds), features[:, :, 0:2, 1:4].mean((2, 3)))


def test_grid_positions_of_a_padded_clip_are_those_of_the_clip_alone() -> None:
    mask = torch.zeros(1, 5, 6, dtype=torch.bool)
    mask[:, :3, :4] = True
    padded = grid_positions(mask, 16).unflatten(1, (5, 6))[:, :3, :4]
    alone = grid_positions(torch.ones(1, 3, 4, dtype=torch.bool), 16).unflatten(1, (3, 4))
    torch.testing.assert_close(padded, alone)
