"""What is TubeDETR's own, at a small size; ../test_grounders.py has what it shares with every grounder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stvg_nst.commands.weights import convert, initialise
from stvg_nst.losses import GroundingLoss
from stvg_nst.models import TubeDETR
from stvg_nst.models.tubedetr.checkpoint import load_mdetr, load_official
from stvg_nst.models.weights import WeightsMismatchError
from stvg_nst.module import GroundingModule
from stvg_nst.tuning import ZeroShot
from stvg_nst.types import Batch
from tests.stvg_nst.models.small import QUERIES, clip, run, small_tubedetr


@pytest.fixture
def grounder() -> TubeDETR:
    return small_tubedetr()


@torch.no_grad()
def test_a_slow_frame_stands_for_those_behind_it_until_the_next(grounder: TubeDETR) -> None:
    nn.init.zeros_(grounder.fast_residual.weight)
    output = run(grounder, clip(5, 64, 64, seed=0), QUERIES[0])
    assert output.fused is not None
    tokens = output.fused.tokens[0]
    for first, others in ((0, [1]), (2, [3]), (4, [])):
        assert all(torch.equal(tokens[first], tokens[other]) for other in others)
    assert not torch.equal(tokens[1], tokens[2])


@torch.no_grad()
def test_the_fast_branch_corrects_cells_by_their_own_frame_and_no_words(grounder: TubeDETR) -> None:
    frames = clip(4, 64, 64, seed=0)
    changed = frames.clone()
    changed[:, 1] += 1  # no slow frame
    before, after = (run(grounder, x, QUERIES[0]).fused for x in (frames, changed))
    assert before is not None and after is not None
    moved = (before.tokens - after.tokens)[0].abs().amax(-1) > 1e-6
    cells = 4 * 4
    assert moved[1, :cells].all() and not moved[1, cells:].any() and not moved[[0, 2, 3]].any()


def test_the_image_encoder_learns_by_slow_frames_and_the_projection_by_all(grounder: TubeDETR) -> None:
    frames = clip(4, 64, 64, seed=0)
    features = grounder.encode(frames, torch.ones(1, 4, dtype=torch.bool))
    features.appearance.retain_grad()
    grounder.ground(features, torch.ones(1, 4, dtype=torch.bool), QUERIES[:1]).boxes.sum().backward()
    moved = features.appearance.grad.abs().amax((0, 2, 3, 4)) > 0
    assert moved.tolist() == [True, False, True, False]
    both = grounder.visual_proj.weight.grad.clone()
    grounder.zero_grad()
    detached = features.changed(lambda tensor: tensor.detach())
    grounder.ground(detached, torch.ones(1, 4, dtype=torch.bool), QUERIES[:1]).boxes.sum().backward()
    torch.testing.assert_close(grounder.visual_proj.weight.grad, both)


def test_more_frames_than_the_model_tells_apart_are_refused(grounder: TubeDETR) -> None:
    features = grounder.encode(clip(1, 32, 32, seed=0), torch.ones(1, 1, dtype=torch.bool))
    longer = features.changed(lambda tensor: tensor.expand(1, 201, *tensor.shape[2:]) if tensor.ndim == 5 else tensor)
    with pytest.raises(ValueError, match="at most 200 sampled frames of a clip apart, got 201"):
        grounder.ground(longer, torch.ones(1, 201, dtype=torch.bool), QUERIES[:1])


def test_a_stride_that_is_none_is_refused() -> None:
    small = small_tubedetr()
    with pytest.raises(ValueError, match="stride must be at least 1 frame, got 0"):
        TubeDETR(small.visual, small.text, stride=0)


def test_two_passes_are_refused_with_the_reason(grounder: TubeDETR) -> None:
    with pytest.raises(ValueError, match=r"all frames of a clip at once, got two_pass: halves .* give single_pass"):
        GroundingModule(grounder, ZeroShot(), weights="random", inference="two_pass")


def test_its_objective_is_the_default_of_a_run(grounder: TubeDETR) -> None:
    module = GroundingModule(grounder, ZeroShot(), weights="random")
    assert module.loss.weights == {"boxes": 5, "giou": 2, "start_end": 10, "guided_attention": 1}
    assert module.loss.boundary_sigma == 1 and GroundingLoss().boundary_sigma == 2
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    inside = torch.tensor([[False, True, True, False], [False] * 4])  # one clip without a frame of the tube
    boxes = torch.full((2, 4, 4), 0.4) * inside[..., None]
    batch = Batch((None,) * 2, None, None, mask, (), boxes, inside, torch.zeros(2))  # type: ignore[arg-type]
    grounder.requires_grad_(True).train()
    output = grounder(clip(4, 64, 64, seed=0).expand(2, -1, -1, -1, -1), mask, QUERIES)
    total = module.loss.total(module.loss(output, batch))
    total.backward()
    assert total.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in grounder.parameters())


def test_it_starts_as_the_original_does() -> None:
    small = small_tubedetr()
    fresh = TubeDETR(small.visual, small.text, num_heads=4, hidden=64, encoder_depth=1, decoder_depth=1)
    assert not fresh.fast_residual.weight.any() and not fresh.fast_residual.bias.any()
    width = fresh.width
    for attention in (fresh.encoder.layers[0].self_attn, fresh.decoder.layers[0].cross_attn):
        # Xavier's bound of the three projections as one matrix.
        assert attention.q_proj.weight.abs().max() <= (6 / (4 * width)) ** 0.5 < attention.out_proj.weight.abs().max()
        assert not attention.q_proj.bias.any() and not attention.out_proj.bias.any()


# --- checkpoints ----------------------------------------------------------------------------------------------------

_BACK = (
    ("visual.body.", "backbone.0.body."),
    ("text.body.", "transformer.text_encoder."),
    ("text.projection.", "transformer.resizer.fc."),
    ("text.norm.", "transformer.resizer.layer_norm."),
    ("visual_proj.", "input_proj."),
    ("query.", "query_embed."),
    ("box_head.", "bbox_embed."),
    ("start_end_head.", "sted_embed."),
    ("fast_", "transformer.fast_"),
    ("encoder.", "transformer.encoder."),
    ("decoder.", "transformer.decoder."),
)
_INNER = {
    "encoder": ((".ffn.norm.", ".norm2."), (".norm.", ".norm1."), (".ffn.", ".")),
    "decoder": (
        (".ffn.norm.", ".norm4."),
        (".self_norm.", ".norm1."),
        (".cross_norm.", ".norm3."),
        (".cross_attn.", ".cross_attn_image."),
        (".ffn.", "."),
    ),
}


def as_official(model: TubeDETR) -> dict[str, Tensor]:
    """The weights of a small model as the official code would save them, written down independently."""
    official: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        ours, theirs = next(pair for pair in _BACK if name.startswith(pair[0]))
        for before, after in _INNER.get(name.partition(".")[0], ()):
            if ".layers." in name:
                name = name.replace(before, after)
        official[theirs + name.removeprefix(ours)] = value
    for name in [name for name in official if ".q_proj." in name]:
        stem, kind = name.split(".q_proj.")
        parts = [official.pop(f"{stem}.{part}_proj.{kind}") for part in "qkv"]
        official[f"{stem}.in_proj_{kind}"] = torch.cat(parts)
    official["input_proj.weight"] = official["input_proj.weight"][..., None, None]
    return official


@pytest.fixture
def frozen_norms() -> TubeDETR:
    """Without counters of batches, which the original's frozen norms have not."""
    small = small_tubedetr()
    small.visual = type(small.visual)("resnet18", 4, {"channels": [8, 16, 24, 24]}, frozen_norm=True)
    return TubeDETR(small.visual, small.text, num_heads=4, hidden=64, encoder_depth=2, decoder_depth=2)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Any], Path]:
    def write(content: Any) -> Path:
        torch.save(content, tmp_path / "checkpoint.pth")
        return tmp_path / "checkpoint.pth"

    return write


def moved(model: TubeDETR) -> dict[str, Tensor]:
    return {name: value + 1 if value.is_floating_point() else value for name, value in as_official(model).items()}


def test_an_official_checkpoint_fills_the_whole_model_from_its_average(
    frozen_norms: TubeDETR, save: Callable[[Any], Path]
) -> None:
    before = {name: value.clone() for name, value in frozen_norms.state_dict().items()}
    average = moved(frozen_norms) | {
        "transformer.time_embed.te": torch.zeros(200, 1, 32),
        "transformer.text_encoder.pooler.dense.bias": torch.zeros(32),
        "transformer.text_encoder.embeddings.position_ids": torch.zeros(1, 9, dtype=torch.int64),
    }
    report = load_official(save({"model": as_official(frozen_norms), "model_ema": average}), frozen_norms)
    assert all(torch.equal(value, before[name] + 1) for name, value in frozen_norms.state_dict().items())
    assert not report.missing and len(report.ignored) == 3 and "(model_ema)" in str(report)
    assert report.renamed["decoder.layers.1.cross_norm.weight"] == "transformer.decoder.layers.1.norm3.weight"


def test_a_checkpoint_that_does_not_fit_is_refused(frozen_norms: TubeDETR, save: Callable[[Any], Path]) -> None:
    tensors = as_official(frozen_norms)
    del tensors["sted_embed.layers.1.bias"]
    with pytest.raises(WeightsMismatchError, match=r"does not fit TubeDETR: 1 of .* keys differ") as refused:
        load_official(save({"model": tensors}), frozen_norms)
    assert refused.match(r"missing: start_end_head\.layers\.1\.bias")


def test_mdetr_fills_all_but_the_fast_branch_and_the_head_of_start_and_end(
    frozen_norms: TubeDETR, save: Callable[[Any], Path]
) -> None:
    nn.init.ones_(frozen_norms.fast_residual.weight)
    before = {name: value.clone() for name, value in frozen_norms.state_dict().items()}
    mdetr = {
        name: value
        for name, value in moved(frozen_norms).items()
        if not name.startswith(("sted_embed.", "transformer.fast_"))
    }
    mdetr["query_embed.weight"] = torch.cat((mdetr["query_embed.weight"], torch.zeros(99, frozen_norms.width)))
    heads = ("class_embed.bias", "contrastive_align_projection_image.weight", "contrastive_align_projection_text.bias")
    report = load_mdetr(save({"model_ema": {**mdetr, **dict.fromkeys(heads, torch.zeros(1))}}), frozen_norms)
    kept = ("fast_", "start_end_head.")
    assert set(report.missing) == {name for name in before if name.startswith(kept)} and set(report.ignored) == set(
        heads
    )
    for name, value in frozen_norms.state_dict().items():
        expected = before[name] if name.startswith(kept) else before[name] + 1
        assert torch.equal(value, torch.zeros_like(value) if name.startswith("fast_residual.") else expected), name


def test_the_commands_convert_and_initialise(
    frozen_norms: TubeDETR, save: Callable[[Any], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [
        "--config=experiments/model/tubedetr.yaml",
        "--model.grounder.visual.name=resnet18",
        '--model.grounder.visual.model_args={"channels": [8, 16, 24, 24]}',
        "--model.grounder.text.source=stvg_nst/models/mini",
        "--model.grounder.text.width=32",
        "--model.grounder.num_heads=4",
        "--model.grounder.hidden=64",
        "--model.grounder.encoder_depth=2",
        "--model.grounder.decoder_depth=2",
    ]
    source, ours, start = (
        save({"model": moved(frozen_norms)}),
        tmp_path / "ours.safetensors",
        tmp_path / "s.safetensors",
    )
    assert convert([str(source), str(ours), *options], "convert") == 0
    assert "(model): " in capsys.readouterr().out
    assert torch.equal(load_file(ours)["query.weight"], frozen_norms.query.weight + 1)
    mdetr = {k: v for k, v in moved(frozen_norms).items() if not k.startswith(("sted_embed.", "transformer.fast_"))}
    assert initialise([str(start), f"--mdetr={save({'model': mdetr})}", *options], "initialise") == 0
    assert not load_file(start)["fast_residual.weight"].any()
    with pytest.raises(ValueError, match="TubeDETR has no video encoder; leave out --video-swin"):
        initialise([str(tmp_path / "x.safetensors"), f"--video-swin={source}", *options], "initialise")
    with pytest.raises(ValueError, match="give single_pass"):
        convert([str(source), str(tmp_path / "y.safetensors"), *options, "--model.inference=two_pass"], "convert")
