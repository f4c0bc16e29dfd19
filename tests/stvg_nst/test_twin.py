"""The clean twin: what a tuned grounder's tokens are pulled to."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stvg_nst.commands.weights import weights_parser
from stvg_nst.models.base import Grounder
from stvg_nst.module import GroundingModule
from stvg_nst.tuning import (
    FullFineTuning,
    GatedAdapter,
    GatedLoRA,
    HoulsbyAdapters,
    LoRA,
    NullSpaceTuning,
    PromptTuning,
    Switch,
    Tuner,
)
from stvg_nst.twin import CleanTwin, twin_distance
from stvg_nst.types import BackboneFeatures, Batch, ClipInfo, Degradation, FusedTokens, Quality, Tube

TARGETS = ["encoder.layers.0.ffn.linear?"]
TUNERS: dict[str, Callable[[], Tuner]] = {
    "nst": lambda: NullSpaceTuning(TARGETS, rank=4, retrieval_width=8, heads=1, router="shared"),
    "gated": lambda: GatedAdapter(TARGETS, rank=4, retrieval_width=8, heads=1, router="shared"),
    "lora": lambda: LoRA(TARGETS, rank=4, alpha=4),
    "gated_lora": lambda: GatedLoRA(TARGETS, rank=4, alpha=4, retrieval_width=8, heads=1),
    "switch": lambda: Switch(["encoder"], retrieval_width=8, heads=1),
    "houlsby": lambda: HoulsbyAdapters(TARGETS, width=4),
    "prompts": lambda: PromptTuning(["encoder"]),
    "full": lambda: FullFineTuning(["encoder", "text"]),
}


@pytest.fixture
def grounder() -> Grounder:
    torch.manual_seed(0)
    parser = weights_parser("test", "The miniature.")
    options = parser.parse_args(["--config=experiments/model/mini.yaml"])
    built: Grounder = parser.instantiate(options).model.grounder.eval()
    return built


def features(seed: int, *, clips: int = 2, frames: int = 3) -> BackboneFeatures:
    generator = torch.Generator().manual_seed(seed)
    appearance = torch.randn(clips, frames, 128, 4, 4, generator=generator)
    motion = torch.randn(clips, frames, 96, 4, 4, generator=generator)
    return BackboneFeatures(appearance, motion, torch.ones(clips, 4, 4, dtype=torch.bool))


def batch(*qualities: Quality, twins: bool = True, seed: int = 1, frames: int = 3) -> Batch:
    """Random features; the twins of its low-quality clips have features of their own."""

    def info(quality: Quality) -> ClipInfo:
        made = None if quality is Quality.HQ else Degradation("defocus", 3, 0)
        tube = Tube(0, 2, torch.tensor([[0.0, 0.0, 5.0, 5.0]]).expand(2, 4))
        return ClipInfo(
            "item", "the red star", "declarative", quality, made, tuple(range(frames)), tube, (9, 9), 9, 25, ""
        )

    count = len(qualities)
    low = [quality for quality in qualities if quality is Quality.LQ]
    return Batch(
        clips=tuple(map(info, qualities)),
        frames=None,
        features=features(seed, clips=count, frames=frames),
        frame_mask=torch.ones(count, frames, dtype=torch.bool),
        frame_sizes=(),
        boxes=torch.full((count, frames, 4), 0.5),
        inside=torch.ones(count, frames, dtype=torch.bool),
        qualities=torch.tensor([int(quality) for quality in qualities]),
        twins=batch(*[Quality.HQ] * len(low), seed=seed + 50, frames=frames) if twins and low else None,
    )


def module(grounder: Grounder, tuner: Tuner, **options: Any) -> GroundingModule:
    return GroundingModule(grounder, tuner, weights="random", **{"twin": 10.0, **options})


def fused(tuned: GroundingModule, shown: Batch) -> FusedTokens:
    found = tuned(shown).fused
    assert found is not None
    return found


@pytest.mark.parametrize("name", TUNERS)
def test_the_twin_stays_what_the_frozen_grounder_was_while_the_tuned_one_moves(grounder, name):
    shown = batch(Quality.HQ, Quality.LQ)
    assert shown.features is not None
    before = grounder.fuse(shown.features, shown.frame_mask, shown.queries).tokens.detach().clone()
    tuned = module(grounder, TUNERS[name]())
    tuned.train()
    optimizer = torch.optim.SGD(tuned.trained_parameters(), lr=0.1)
    for _ in range(2):
        features = tuned._features(shown)
        tuned._twin_distance(tuned._clean, fused(tuned, shown), features, shown).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert tuned._clean is not None
    after = tuned._clean.targets(shown.features, shown.frame_mask, shown.queries).tokens
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not torch.equal(tuned._ground(shown.features, shown).fused.tokens, before)


def test_targets_of_cached_features_are_computed_once_and_stay_what_they_were(grounder):
    tuned, calls = module(grounder, TUNERS["full"]()), []
    assert tuned._clean is not None
    tuned._clean._frozen.encoder.register_forward_hook(lambda *call: calls.append(call))
    shown = batch(Quality.HQ, Quality.LQ)
    arguments = shown.features, shown.frame_mask, shown.queries
    fresh = [tuned._clean.targets(*arguments).tokens for _ in range(2)]
    assert torch.equal(*fresh) and len(calls) == 2

    data = SimpleNamespace(twins=True, cached_backbones=tuned.backbone_fingerprint(), records={})
    tuned._trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=1.0)
    tuned.setup("fit")
    for _ in range(2):
        kept = tuned._clean.targets(*arguments).tokens
        torch.testing.assert_close(kept, fresh[0], rtol=0, atol=1e-5)
        assert len(calls) == 4, "each clip alone, and none of them again"
    other = batch(Quality.HQ, Quality.LQ, seed=2)
    tuned._clean.targets(other.features, other.frame_mask, other.queries)
    assert len(calls) == 6


def test_targets_of_fresh_features_are_computed_every_time(grounder):
    tuned = module(grounder, TUNERS["full"]())
    data = SimpleNamespace(twins=True, cached_backbones=None, records={})
    tuned._trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=1.0)
    tuned.setup("fit")
    assert tuned._clean is not None and tuned._clean._frozen.encodings is None


def test_a_clip_of_high_quality_is_pulled_to_itself_and_one_of_low_quality_to_its_twin(grounder):
    tuned = module(grounder, TUNERS["lora"]())
    shown = batch(Quality.HQ, Quality.LQ, Quality.LQ)
    features = tuned._features(shown)
    distance = tuned._twin_distance(tuned._clean, fused(tuned, shown), features, shown)
    # Before the first step the tuned grounder is the frozen one.
    assert distance[0] == 0 and (distance[1:] > 0.01).all()
    assert shown.twins is not None and shown.twins.features is not None
    twins = shown.twins
    frozen = [
        grounder.fuse(features, part.frame_mask, part.queries).tokens
        for features, part in ((features, shown), (twins.features, twins))
    ]
    expected = (frozen[0][1:] - frozen[1]).square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(distance[1:], expected, rtol=1e-4, atol=1e-6)


def test_the_targets_of_visual_encoders_that_are_trained_are_those_of_the_frozen_ones(grounder):
    def shown_in_pixels(part: Batch, seed: int) -> Batch:
        frames = torch.randn(len(part), 3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        twins = None if part.twins is None else shown_in_pixels(part.twins, seed + 1)
        return replace(part, frames=frames, features=None, frame_sizes=((32, 32),) * len(part), twins=twins)

    shown = shown_in_pixels(batch(Quality.HQ, Quality.LQ), 0)
    tuned = module(grounder, FullFineTuning(["motion.features"]))

    def distances(frozen: torch.Tensor | None = None) -> torch.Tensor:
        tokens = fused(tuned, shown) if frozen is None else FusedTokens(frozen, torch.ones(1, 1, 1, dtype=torch.bool))
        return tuned._twin_distance(tuned._clean, tokens, tuned._features(shown), shown)

    frozen = fused(tuned, shown).tokens.detach()
    before = distances(frozen)
    assert before[0] < 1e-9 and before[1] > 0.01
    assert distances().requires_grad
    with torch.no_grad():
        for parameter in tuned.trained_parameters():
            parameter.mul_(0.9)
    torch.testing.assert_close(distances(frozen), before, rtol=0, atol=0)
    assert distances()[0] > 1e-6


def test_the_twin_is_no_part_of_the_module(grounder):
    alone = GroundingModule(copy.deepcopy(grounder), TUNERS["full"](), weights="random")
    tuned = module(grounder, TUNERS["full"]())
    assert set(tuned.state_dict()) == set(alone.state_dict())
    assert sum(p.numel() for p in tuned.parameters()) == sum(p.numel() for p in alone.parameters())


def test_padding_has_no_part_in_the_distance():
    mask = torch.tensor([[[True, True, False]], [[True, False, False]]])
    tuned, target = FusedTokens(torch.ones(2, 2, 3, 4), mask), FusedTokens(torch.zeros(2, 2, 3, 4), mask)
    tuned.tokens[:, :, 2], tuned.tokens[1, 1] = float("nan"), float("inf")
    frame_mask = torch.tensor([[True, True], [True, False]])
    assert twin_distance(tuned, target, frame_mask).tolist() == [1.0, 1.0]


def test_features_of_some_clips_are_replaced_by_shorter_and_smaller_ones():
    ours, theirs = features(0, clips=3), features(1, clips=2, frames=2)
    smaller = BackboneFeatures(theirs.appearance[..., :3], theirs.motion[..., :3], theirs.cell_mask[..., :3])
    found = ours.replaced(torch.tensor([0, 2]), smaller)
    assert torch.equal(found.appearance[1], ours.appearance[1])
    assert torch.equal(found.appearance[2, :2, :, :, :3], smaller.appearance[1])
    assert not found.motion[0, 2:].any() and not found.motion[0, ..., 3:].any()
    assert found.cell_mask[0].tolist() == [[True, True, True, False]] * 4


def test_a_twin_without_an_effect_is_refused(grounder):
    with pytest.raises(ValueError, match="nothing is tuned there: it would have no effect; choose a scope"):
        module(grounder, LoRA(["time_decoder.layers.0.ffn.linear2"], rank=4, alpha=4))


def test_a_weight_below_zero_and_a_grounder_without_tokens_are_refused(grounder, toy):
    with pytest.raises(ValueError, match=r"at least 0, got -1"):
        module(grounder, TUNERS["lora"](), twin=-1.0)
    with pytest.raises(ValueError, match=r"ToyGrounder has no tokens ahead of its decoders; give --model\.twin 0"):
        CleanTwin(toy.ToyGrounder())


@pytest.mark.parametrize("name", [name for name in TUNERS if name != "full"])
def test_without_annotations_the_twin_alone_teaches_and_no_tube_is_looked_at(grounder, name, monkeypatch):
    tuned = module(grounder, TUNERS[name](), annotated=False)
    tuned._fit_seed = 0
    monkeypatch.setattr(tuned, "log", lambda *value, **options: None)
    monkeypatch.setattr(tuned, "log_dict", lambda *values, **options: None)
    monkeypatch.setattr(tuned.grounder.time_decoder, "forward", lambda *tokens: pytest.fail("a decoder ran"))
    shown = batch(Quality.HQ, Quality.LQ)
    nowhere = replace(shown, boxes=torch.full_like(shown.boxes, float("nan")), inside=torch.zeros_like(shown.inside))
    losses = [tuned.training_step(each, 0) for each in (shown, nowhere)]
    assert losses[0] > 0 and torch.equal(*losses)
    losses[0].backward()
    taught = [parameter.grad for parameter in tuned.trained_parameters() if parameter.grad is not None]
    assert any(gradient.abs().sum() > 0 for gradient in taught)


def test_training_clips_without_tubes_are_refused_where_tubes_would_teach(grounder):
    records = {"train": [SimpleNamespace(item_id=name, query="the star", has_tube=name == "a") for name in "ab"]}
    data = SimpleNamespace(twins=True, cached_backbones=None, records=records)
    trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=1.0)
    for annotated in (True, False):
        tuned = module(copy.deepcopy(grounder), TUNERS["lora"](), annotated=annotated)
        tuned._trainer = trainer
        if annotated:
            with pytest.raises(ValueError, match=r"1 of 2 sentences .* the first 'b'; --model\.annotated false lets"):
                tuned.setup("fit")
        else:
            tuned.setup("fit")


@pytest.mark.parametrize(
    ("stage", "split", "val_batches", "advice"),
    [
        ("fit", "val", 1.0, "--trainer.limit_val_batches 0 measures nothing by them"),
        ("fit", "val", 0, None),
        ("validate", "val", 0, "give them one"),
        ("test", "val", 0, "give them one"),
        ("test", "train", 0, None),
    ],
)
def test_clips_without_tubes_are_refused_where_they_would_measure(grounder, stage, split, val_batches, advice):
    records = {split: [SimpleNamespace(item_id="a", query="the star", has_tube=False)]}
    data = SimpleNamespace(twins=True, cached_backbones=None, records=records, evaluation_split="val")
    tuned = module(grounder, TUNERS["lora"](), annotated=False)
    tuned._trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=val_batches)
    if advice is None:
        tuned.setup(stage)
    else:
        with pytest.raises(ValueError, match=rf"1 of 1 sentences of the val split have no tube, .* 'a'; {advice}"):
            tuned.setup(stage)


@pytest.mark.parametrize(
    ("tuner", "twin", "message"),
    [
        (TUNERS["lora"], 0.0, "leaves the clean twin as the only teacher; give --model.twin a weight above 0"),
        (lambda: FullFineTuning(["encoder", "box_decoder"]), 10.0, "'box_decoder.* is behind it; choose a scope"),
    ],
)
def test_what_nothing_teaches_without_annotations_is_refused(grounder, tuner, twin, message):
    with pytest.raises(ValueError, match=message):
        module(grounder, tuner(), twin=twin, annotated=False)
