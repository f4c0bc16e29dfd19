"""The network at the miniature's size: batching, masks, and the contract with the tuners."""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.encoding_store import EncodingStore
from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks import image
from stvg_nst.models.blocks.positions import grid_positions
from stvg_nst.models.cgstvg import ImageEncoder, TextEncoder, VideoEncoder
from stvg_nst.models.cgstvg.regions import pool_regions, region_bounds
from stvg_nst.tuning import NullSpaceTuning
from stvg_nst.types import BackboneFeatures, GroundingOutput

QUERIES = ("a small red star jumps up and down", "what large thing spins?")


@pytest.fixture(scope="module")
def grounder() -> CGSTVG:
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


def clip(length: int, height: int, width: int, seed: int) -> Tensor:
    return torch.randn(1, length, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(grounder: CGSTVG, frames: Tensor, query: str) -> GroundingOutput:
    return grounder(frames, torch.ones(frames.shape[:2], dtype=torch.bool), (query,))


@torch.no_grad()
def assert_each_clip_is_as_if_alone(grounder: CGSTVG, lengths: tuple[int, int]) -> None:
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
        for name in ("boxes", "confidence", "start_end", "actioness"):
            torch.testing.assert_close(
                getattr(together, name)[:, row, :length], getattr(alone, name)[:, 0], atol=1e-5, rtol=0
            )


def test_a_clip_in_a_batch_of_other_lengths_and_sizes_is_as_if_alone(grounder: CGSTVG) -> None:
    assert_each_clip_is_as_if_alone(grounder, (5, 9))


@torch.no_grad()
def test_kept_encodings_give_the_same_answers_without_the_encoder(
    grounder: CGSTVG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = torch.cat((clip(6, 96, 96, seed=1), clip(6, 96, 96, seed=2)))
    frame_mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    features = grounder.encode(frames, frame_mask, [(64, 96), (96, 64)])
    expected = grounder.ground(features, frame_mask, QUERIES)
    calls = count_calls(monkeypatch, grounder.encoder)
    monkeypatch.setattr(grounder, "encodings", EncodingStore(tmp_path, "encoder"))
    for expected_calls in (2, 3, 3):  # each clip alone, then one of them to confirm what is stored, and never again
        found = grounder.ground(features, frame_mask, QUERIES)
        assert len(calls) == expected_calls
        for name in ("boxes", "confidence", "start_end", "actioness"):
            real = frame_mask.expand_as(expected.actioness)
            torch.testing.assert_close(getattr(found, name)[real], getattr(expected, name)[real], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_is_kept_of_one_clip_and_sentence_is_given_for_no_other(
    grounder: CGSTVG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = count_calls(monkeypatch, grounder.encoder)
    monkeypatch.setattr(grounder, "encodings", EncodingStore(tmp_path, "encoder"))
    frames, mask = clip(3, 64, 64, seed=1), torch.ones(1, 3, dtype=torch.bool)
    features = grounder.encode(frames, mask)
    others = [
        BackboneFeatures(features.appearance + 1e-3, features.motion, features.cell_mask),
        BackboneFeatures(features.appearance, features.motion * 1.001, features.cell_mask),
        BackboneFeatures(features.appearance[:, :2], features.motion[:, :2], features.cell_mask),
    ]
    grounder.ground(features, mask, QUERIES[:1])
    grounder.ground(features, mask, QUERIES[1:])
    for other in others:
        grounder.ground(other, mask[:, : other.motion.shape[1]], QUERIES[:1])
    assert len(calls) == len(list(tmp_path.rglob("*.safetensors"))) == 2 + len(others)


def count_calls(monkeypatch: pytest.MonkeyPatch, module: nn.Module) -> list[object]:
    calls: list[object] = []
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda *inputs: calls.append(None) or forward(*inputs))
    return calls


@pytest.mark.slow
def test_a_clip_in_a_batch_is_as_if_alone_at_full_size(build_full_size: Callable[[], CGSTVG]) -> None:
    torch.manual_seed(0)
    model = build_full_size().eval()
    # Low enough that random weights find context frames.
    model.actioness_threshold, model.confidence_threshold = -1.0, 0.9
    assert_each_clip_is_as_if_alone(model, (4, 1))


@torch.no_grad()
def test_one_frame_is_enough(grounder: CGSTVG) -> None:
    output = run(grounder, clip(1, 64, 64, seed=0), QUERIES[0])
    assert output.boxes.shape == (2, 1, 1, 4) and output.boxes.isfinite().all()


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


def test_the_visual_encoders_can_be_trained_through_padding(grounder: CGSTVG) -> None:
    frames, mask = clip(4, 64, 96, seed=3).expand(2, -1, -1, -1, -1), torch.tensor([[True] * 4, [True] * 3 + [False]])
    features = grounder.encode(frames, mask, [(64, 96), (64, 64)])
    (features.appearance.square().mean() + features.motion.square().mean()).backward()
    for encoder in (grounder.visual, grounder.motion):
        gradients = [parameter.grad for parameter in encoder.parameters()]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    grounder.zero_grad()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_autocast_is_near_full_precision_and_has_gradients(
    grounder: CGSTVG, dtype: torch.dtype, tolerance: float
) -> None:
    frames, mask = clip(6, 64, 96, seed=5), torch.ones(1, 6, dtype=torch.bool)
    with torch.no_grad():
        full = run(grounder, frames, QUERIES[0])
    with torch.autocast("cpu", dtype=dtype):
        half = grounder(frames, mask, QUERIES[:1])
    assert half.boxes.dtype == half.confidence.dtype == torch.float32
    for name in ("boxes", "confidence", "start_end", "actioness"):
        torch.testing.assert_close(getattr(half, name).float(), getattr(full, name), atol=tolerance, rtol=0)
    (half.boxes.sum() + half.confidence.sum() + half.start_end.float().sum()).backward()
    gradients = [parameter.grad for parameter in grounder.parameters() if parameter.grad is not None]
    assert len(gradients) > 300 and all(gradient.isfinite().all() for gradient in gradients)
    grounder.zero_grad()


@pytest.mark.parametrize("part", ["visual", "encoder", "time_decoder", "box_decoder"])
def test_recomputed_layers_give_the_same_gradients_and_keep_less(
    grounder: CGSTVG, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image, "_PIECE", 2 * 64 * 64)  # two frames
    frames, mask = clip(4, 64, 64, seed=3), torch.ones(1, 4, dtype=torch.bool)
    module = getattr(grounder, part)
    gradients: dict[bool, dict[str, Tensor]] = {}
    kept: dict[bool, int] = {}
    for recompute in (False, True):
        sizes: list[int] = []
        monkeypatch.setattr(module, "recompute", recompute)
        if part != "visual":
            module.train()  # with dropout, whose masks must be drawn alike
        torch.manual_seed(7)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            output = grounder(frames, mask, QUERIES[:1])
        (output.boxes.sum() + output.actioness.sum()).backward()
        kept[recompute] = sum(sizes)
        gradients[recompute] = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        grounder.zero_grad()
        module.eval()
    assert gradients[True].keys() == gradients[False].keys()
    for name, gradient in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], gradient, atol=1e-6, rtol=1e-4)
    assert max(gradient.abs().max() for gradient in gradients[False].values()) > 0
    assert kept[True] < kept[False]


def test_a_frozen_encoder_keeps_nothing_for_a_backward_pass(grounder: CGSTVG) -> None:
    frames, mask = clip(2, 64, 64, seed=3), torch.ones(1, 2, dtype=torch.bool)
    grounder.motion.requires_grad_(False)
    features = grounder.encode(frames, mask)
    grounder.motion.requires_grad_(True)
    assert features.appearance.requires_grad and not features.motion.requires_grad


def test_forward_takes_no_ground_truth(grounder: CGSTVG) -> None:
    assert list(inspect.signature(grounder.forward).parameters) == ["frames", "frame_mask", "queries", "frame_sizes"]


@torch.no_grad()
def test_every_linear_layer_of_the_grounding_model_is_called_with_the_clip_first(grounder: CGSTVG) -> None:
    frozen = ("visual.", "motion.", "text.body.")
    linears = {n: m for n, m in grounder.named_modules() if isinstance(m, nn.Linear) and not n.startswith(frozen)}
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
def test_a_tuned_projection_runs_behind_the_reference_which_is_that_of_the_frozen_one(grounder: CGSTVG) -> None:
    tuned = copy.deepcopy(grounder)
    tuned.motion_proj = nn.Sequential(OrderedDict(base_layer=tuned.motion_proj, shift=nn.ReLU()))  # type: ignore
    order: list[str] = []
    seen: dict[str, Tensor] = {}
    for name, model in (("frozen", grounder), ("tuned", tuned)):
        model.reference_point.register_forward_hook(
            lambda point, inputs, reference, name=name: order.append(name) or seen.__setitem__(name, reference.visual)
        )
    tuned.motion_proj.register_forward_hook(lambda *call: order.append("projection"))
    frames = clip(6, 64, 64, seed=0)
    answers = [run(model, frames, QUERIES[0]).boxes for model in (grounder, tuned)]
    assert order == ["frozen", "tuned", "projection"]
    assert torch.equal(seen["frozen"], seen["tuned"])
    assert not torch.equal(*answers)


@torch.no_grad()
def test_padding_has_no_part_in_what_is_tuned_ahead_of_the_encoder(grounder: CGSTVG) -> None:
    tuned = copy.deepcopy(grounder)
    tuner = NullSpaceTuning(["visual_proj", "motion_proj"], rank=4, heads=1, gate_per="frame", seed=0)
    tuner.inject(tuned)
    for name, parameter in tuned.named_parameters():
        if "row_head.outer" in name:
            parameter.fill_(0.1)
    assert_each_clip_is_as_if_alone(tuned, (5, 9))
    frames = clip(6, 64, 64, seed=0)
    assert not torch.equal(run(tuned, frames, QUERIES[0]).boxes, run(grounder, frames, QUERIES[0]).boxes)


@torch.no_grad()
def test_no_linear_layer_of_the_grounding_model_is_read_around_its_forward(grounder: CGSTVG) -> None:
    tuned, frozen = copy.deepcopy(grounder), ("visual.", "motion.", "text.body.")
    for name, module in grounder.named_modules():
        if isinstance(module, nn.Linear) and not name.startswith(frozen):
            parent, _, own = name.rpartition(".")
            setattr(tuned.get_submodule(parent), own, Wrapped(tuned.get_submodule(name)))
    frames = clip(6, 64, 64, seed=0)
    torch.testing.assert_close(run(tuned, frames, QUERIES[0]).boxes, run(grounder, frames, QUERIES[0]).boxes)


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
