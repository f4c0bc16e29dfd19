from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.models.base import Grounder, Reference, ReferencePoint, TokenGrid, grid_of
from stvg_nst.types import BackboneFeatures

SHAPES = {
    "visual": (2, 3, 4, 8),
    "visual_mask": (2, 3, 4),
    "text": (2, 5, 8),
    "text_mask": (2, 5),
    "frame_mask": (2, 3),
    "memory_mask": (2, 3, 9),
}


def tensors() -> dict[str, torch.Tensor]:
    return {name: torch.ones(shape, dtype=torch.bool if "mask" in name else None) for name, shape in SHAPES.items()}


def test_reference_point_hands_its_tensors_on_untouched():
    given = tensors()
    reference = ReferencePoint()(**given)
    assert all(getattr(reference, name) is tensor for name, tensor in given.items())


@pytest.mark.parametrize("name", SHAPES)
def test_reference_refuses_shapes_that_disagree(name):
    wrong = tensors()
    wrong[name] = wrong[name][:1]
    with pytest.raises(ValueError, match=r"visual tokens \([12], 3, 4, 8\) need \w+ \([12], .*\), got \([12], "):
        Reference(**wrong)


def test_reference_names_the_tensor_and_both_shapes():
    wrong = tensors() | {"text": torch.ones(2, 5, 7)}
    with pytest.raises(ValueError, match=r"need text \(2, 5, 8\), got \(2, 5, 7\)"):
        Reference(**wrong)


@pytest.mark.parametrize(
    ("mask", "frames", "message"),
    [
        ((2, 4, 7), None, r"an input of 3 frames needs a mask \(2, 3, N\), got \(2, 4, 7\)"),
        ((1, 3, 7), None, r"an input of 3 frames needs a mask \(2, 3, N\), got \(1, 3, 7\)"),
        ((2, 3, 7), [0, 2], r"an input of 2 frames needs a mask \(2, 2, N\), got \(2, 3, 7\)"),
        ((2, 3), None, r"an input of 3 frames needs a mask \(2, 3, N\), got \(2, 3\)"),
        ((2, 3, 9), None, r"told apart by their shapes, got \(2, 3, 9\) twice"),
    ],
)
def test_a_reference_refuses_inputs_that_do_not_belong_to_it(mask, frames, message):
    grid = TokenGrid(torch.ones(mask, dtype=torch.bool), None if frames is None else torch.tensor(frames))
    with pytest.raises(ValueError, match=message):
        Reference(**tensors(), inputs=(grid,))


def test_padded_frames_have_no_token_in_any_grid():
    given = tensors()
    given["frame_mask"][1, 1:] = False
    slow = TokenGrid(torch.ones(2, 2, 6, dtype=torch.bool), torch.tensor([0, 2]))
    frames, memory, fast, found = Reference(
        **given, inputs=(TokenGrid(torch.ones(2, 3, 7, dtype=torch.bool)), slow)
    ).grids
    assert frames.mask is given["frame_mask"]
    for grid, tokens in ((memory, 9), (fast, 7)):
        assert grid.mask.tolist() == [[[True] * tokens] * 3, [[True] * tokens] + [[False] * tokens] * 2]
    assert found.mask.tolist() == [[[True] * 6] * 2, [[True] * 6, [False] * 6]]
    assert found.along_frames(torch.arange(6).view(2, 3)).tolist() == [[0, 2], [3, 5]]
    assert found.along_frames(torch.arange(2)).tolist() == [0, 1]
    assert grid_of((frames, memory, fast, found), torch.zeros(2, 2, 6, 5), "layer") is found


class Recorder(Grounder):
    width = 8

    def backbones(self) -> tuple[nn.Module, ...]:
        return ()

    def encode(self, frames, frame_mask, frame_sizes):
        self.sizes = frame_sizes
        return BackboneFeatures(frames, frames, frame_mask)

    def ground(self, features, frame_mask, queries):
        return features, frame_mask, queries


def test_forward_grounds_what_it_encodes_and_clips_fill_their_frames_by_default():
    model, frames, mask = Recorder(), torch.ones(2, 3, 3, 6, 10), torch.ones(2, 3, dtype=torch.bool)
    features, frame_mask, queries = model(frames, mask, ["a", "b"])
    assert features.appearance is frames
    assert frame_mask is mask
    assert queries == ["a", "b"]
    assert model.sizes == [(6, 10), (6, 10)]
    model(frames, mask, ["a", "b"], [(6, 10), (4, 8)])
    assert model.sizes == [(6, 10), (4, 8)]


def test_a_model_that_names_no_objective_needs_to_be_given_one():
    with pytest.raises(ValueError, match=r"Recorder names no objective of its own; give --model\.loss"):
        Recorder().objective()
