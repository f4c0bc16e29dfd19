"""What every grounder must fulfil: batching, masks, precision, and the contract with the tuners.

A new model joins by one line in GROUNDERS of small.py.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.models.base import Grounder, grid_of
from stvg_nst.models.blocks import image
from stvg_nst.models.encoding_store import EncodingStore
from stvg_nst.tuning import NullSpaceTuning
from stvg_nst.types import GroundingOutput
from tests.stvg_nst.models.small import GROUNDERS, QUERIES, assert_each_clip_is_as_if_alone, clip, run


@pytest.fixture(scope="module", params=GROUNDERS)
def grounder(request: pytest.FixtureRequest) -> Grounder:
    return GROUNDERS[request.param]()


def linear_layers(grounder: Grounder) -> dict[str, nn.Module]:
    """Those behind the encoders of images, clips and sentences."""
    frozen = ("visual.", "motion.", "text.body.")
    modules = grounder.named_modules()
    return {name: m for name, m in modules if isinstance(m, nn.Linear) and not name.startswith(frozen)}


def projections(grounder: Grounder) -> list[str]:
    """Of the visual features to tokens."""
    return [name for name, _ in grounder.named_children() if name in ("visual_proj", "motion_proj")]


def summed(output: GroundingOutput) -> Tensor:
    return torch.stack([value.float().sum() for value in output.answers.values()]).sum()


def test_a_clip_in_a_batch_of_other_lengths_and_sizes_is_as_if_alone(grounder: Grounder) -> None:
    assert_each_clip_is_as_if_alone(grounder, (5, 9))


@torch.no_grad()
def test_kept_encodings_give_the_same_answers_without_the_encoder(
    grounder: Grounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = torch.cat((clip(6, 96, 96, seed=1), clip(6, 96, 96, seed=2)))
    frame_mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    features = grounder.encode(frames, frame_mask, [(64, 96), (96, 64)])
    expected = grounder.ground(features, frame_mask, QUERIES)
    monkeypatch.setattr(grounder, "encodings", EncodingStore(tmp_path, "encoder"))
    with calls_of(grounder.encoder) as calls:
        # Each clip alone, then one of them to confirm what is stored, and never again.
        for expected_calls in (2, 3, 3):
            found = grounder.ground(features, frame_mask, QUERIES)
            assert len(calls) == expected_calls
            for name, value in expected.answers.items():
                ours, theirs = found.answers[name][:, frame_mask], value[:, frame_mask]
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_kept_of_one_clip_and_sentence_is_given_for_no_other(
    grounder: Grounder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grounder, "encodings", EncodingStore(tmp_path, "encoder"))
    frames, mask = clip(3, 64, 64, seed=1), torch.ones(1, 3, dtype=torch.bool)
    features = grounder.encode(frames, mask, [(64, 64)])
    others = [features.unpadded(0, 2)]
    for changed in features.maps:  # one after the other
        others.append(features.changed(lambda tensor, one=changed: tensor * 1.001 if tensor is one else tensor))
    with calls_of(grounder.encoder) as calls:
        grounder.ground(features, mask, QUERIES[:1])
        grounder.ground(features, mask, QUERIES[1:])
        for other in others:
            grounder.ground(other, mask[:, : other.appearance.shape[1]], QUERIES[:1])
    assert len(calls) == len(list(tmp_path.rglob("*.safetensors"))) == 2 + len(others)


@contextmanager
def calls_of(module: nn.Module) -> Iterator[list[nn.Module]]:
    calls: list[nn.Module] = []
    hook = module.register_forward_hook(lambda module, *call: calls.append(module))
    try:
        yield calls
    finally:
        hook.remove()


@torch.no_grad()
def test_one_frame_is_enough(grounder: Grounder) -> None:
    output = run(grounder, clip(1, 64, 64, seed=0), QUERIES[0])
    assert output.boxes.shape == (2, 1, 1, 4) and output.boxes.isfinite().all()


def test_the_visual_encoders_can_be_trained_through_padding(grounder: Grounder) -> None:
    frames, mask = clip(4, 64, 96, seed=3).expand(2, -1, -1, -1, -1), torch.tensor([[True] * 4, [True] * 3 + [False]])
    features = grounder.encode(frames, mask, [(64, 96), (64, 64)])
    torch.stack([maps.square().mean() for maps in features.maps]).sum().backward()
    for encoder in grounder.backbones():
        gradients = [parameter.grad for parameter in encoder.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    grounder.zero_grad()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_autocast_is_near_full_precision_and_has_gradients(
    grounder: Grounder, dtype: torch.dtype, tolerance: float
) -> None:
    frames, mask = clip(6, 64, 96, seed=5), torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        full = run(grounder, frames, QUERIES[0])
    with torch.autocast("cpu", dtype=dtype):
        half = grounder(frames, mask, QUERIES[:1])
    assert half.boxes.dtype == torch.float32
    for name, value in full.answers.items():
        torch.testing.assert_close(half.answers[name].float(), value, atol=tolerance, rtol=0)
    summed(half).backward()
    gradients = [parameter.grad for parameter in grounder.parameters() if parameter.grad is not None]
    assert len(gradients) > 140 and all(gradient.isfinite().all() for gradient in gradients)
    grounder.zero_grad()


def test_recomputed_layers_give_the_same_gradients_and_keep_less(
    grounder: Grounder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_PIECE", 2 * 64 * 64)  # two frames
    frames, mask = clip(4, 64, 64, seed=3), torch.ones(1, 4, dtype=torch.bool)
    parts = {name: module for name, module in grounder.named_children() if hasattr(module, "recompute")}
    assert len(parts) >= 3
    for part, module in parts.items():
        gradients: dict[bool, dict[str, Tensor]] = {}
        kept: dict[bool, int] = {}
        for recompute in (False, True):
            sizes: list[int] = []
            monkeypatch.setattr(module, "recompute", recompute)
            if part != "visual":
                module.train()  # with dropout, whose masks must be drawn alike
            torch.manual_seed(7)
            pack = lambda x, sizes=sizes: sizes.append(x.numel()) or x  # noqa: E731
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
                output = grounder(frames, mask, QUERIES[:1])
            summed(output).backward()
            kept[recompute] = sum(sizes)
            gradients[recompute] = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
            grounder.zero_grad()
            module.eval()
        monkeypatch.setattr(module, "recompute", False)
        assert gradients[True].keys() == gradients[False].keys()
        for name, gradient in gradients[False].items():
            torch.testing.assert_close(gradients[True][name], gradient, atol=1e-6, rtol=1e-4)
        assert max(gradient.abs().max() for gradient in gradients[False].values()) > 0
        assert kept[True] < kept[False]


def test_forward_takes_no_ground_truth(grounder: Grounder) -> None:
    assert list(inspect.signature(grounder.forward).parameters) == ["frames", "frame_mask", "queries", "frame_sizes"]


@torch.no_grad()
def test_every_linear_layer_of_the_grounding_model_is_called_with_the_clip_first(grounder: Grounder) -> None:
    linears = linear_layers(grounder)
    called: dict[str, int] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, x, name=name: called.__setitem__(name, x[0].shape[0]))
        for name, module in linears.items()
    ]
    frames = clip(6, 64, 64, seed=0).expand(3, -1, -1, -1, -1)
    grounder(frames, torch.ones(3, 6, dtype=torch.bool), (QUERIES[0],) * 3)
    for hook in hooks:
        hook.remove()
    assert set(linears) - set(called) == set()
    assert set(called.values()) == {3}
    assert not any(isinstance(module, nn.MultiheadAttention) for module in grounder.modules())


class Wrapped(nn.Module):
    """A tuned layer: nothing but its forward is the frozen layer's."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x)


@torch.no_grad()
def test_a_tuned_projection_runs_behind_the_reference_which_is_that_of_the_frozen_one(grounder: Grounder) -> None:
    tuned, name = copy.deepcopy(grounder), projections(grounder)[-1]
    shifted = nn.Sequential(OrderedDict(base_layer=tuned.get_submodule(name), shift=nn.ReLU()))
    setattr(tuned, name, shifted)
    order: list[str] = []
    seen: dict[str, Tensor] = {}
    for kind, model in (("frozen", grounder), ("tuned", tuned)):
        model.reference_point.register_forward_hook(
            lambda point, inputs, reference, kind=kind: order.append(kind) or seen.__setitem__(kind, reference.visual)
        )
    shifted.register_forward_hook(lambda *call: order.append("projection"))
    frames = clip(6, 64, 64, seed=0)
    answers = [run(model, frames, QUERIES[0]).boxes for model in (grounder, tuned)]
    assert order == ["frozen", "tuned", "projection"]
    assert torch.equal(seen["frozen"], seen["tuned"])
    assert not torch.equal(*answers)


@torch.no_grad()
def test_padding_has_no_part_in_what_is_tuned_ahead_of_the_encoder(grounder: Grounder) -> None:
    tuned = copy.deepcopy(grounder)
    tuner = NullSpaceTuning([*projections(grounder), "encoder.*"], rank=4, heads=1, gate_per="frame", seed=0, **ALL)
    tuner.inject(tuned)
    for name, parameter in tuned.named_parameters():
        if "row_head.outer" in name:
            parameter.fill_(0.1)
    assert_each_clip_is_as_if_alone(tuned, (5, 9))
    frames = clip(6, 64, 64, seed=0)
    assert not torch.equal(run(tuned, frames, QUERIES[0]).boxes, run(grounder, frames, QUERIES[0]).boxes)


# Targets that name whole modules: a strategy chooses among the layers in them.
ALL = {"strategy": "high_nullity", "share": 1.0}


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 5])
def test_the_padding_of_each_input_that_null_space_tuning_may_be_given_is_known(
    grounder: Grounder, length: int
) -> None:
    """But for the anchor head and CG-STVG's mined context, which no scope names."""
    grids: list[tuple] = []
    shapes: dict[str, torch.Size] = {}
    hooks = [
        grounder.reference_point.register_forward_hook(lambda point, inputs, reference: grids.append(reference.grids)),
        *(
            module.register_forward_pre_hook(lambda m, x, name=name: shapes.__setitem__(name, x[0].shape))
            for name, module in linear_layers(grounder).items()
        ),
    ]
    run(grounder, clip(length, 64, 96, seed=0), QUERIES[0])
    for hook in hooks:
        hook.remove()
    for name, shape in shapes.items():
        if name.startswith("text.") or ".context_attn." in name or "_context." in name or shape[1] == 1 != length:
            continue
        assert grid_of(grids[0], torch.empty(shape), name).mask.shape == shape[:-1]


@torch.no_grad()
def test_no_linear_layer_of_the_grounding_model_is_read_around_its_forward(grounder: Grounder) -> None:
    tuned = copy.deepcopy(grounder)
    for name in linear_layers(grounder):
        parent, _, own = name.rpartition(".")
        setattr(tuned.get_submodule(parent), own, Wrapped(tuned.get_submodule(name)))
    frames = clip(6, 64, 64, seed=0)
    torch.testing.assert_close(run(tuned, frames, QUERIES[0]).boxes, run(grounder, frames, QUERIES[0]).boxes)
