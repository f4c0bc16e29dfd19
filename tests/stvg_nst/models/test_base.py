from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.models.base import Grounder, Reference, ReferencePoint
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
