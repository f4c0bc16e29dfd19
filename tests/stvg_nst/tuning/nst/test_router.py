"""The router ahead of all layers: what it reads, and where its hard gate opens."""

from __future__ import annotations

import math

import pytest
import torch

from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.router import StatisticsRouter, frame_statistics, shared_router
from stvg_nst.types import BackboneFeatures

QUALITIES = torch.tensor([0, 1, 1])
STATISTICS = {"router": "shared", "router_reads": "statistics"}


def test_statistics_of_a_frame_by_hand():
    maps = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 6.0], [9.0, 99.0]]])  # (T, h, w)
    cells = torch.tensor([[[True, True], [True, False]]])
    mean, spread, change = frame_statistics(maps[None, :, None], cells, torch.tensor([[True, True]]))
    assert mean.shape == (1, 2, 1)
    assert mean.flatten().tolist() == pytest.approx([3, 17 / 3])
    assert spread.flatten().tolist() == pytest.approx([math.sqrt(8 / 3), math.sqrt(121 / 3 - (17 / 3) ** 2)])
    assert change.flatten().tolist() == pytest.approx([8 / 3, 8 / 3]), "the first frame has that of the second"
    alone = frame_statistics(maps[None, :1, None], cells, torch.tensor([[True]]))
    assert alone[2].flatten().tolist() == [0]


@pytest.mark.parametrize("gate_per", ["clip", "frame"])
@pytest.mark.parametrize("length", [1, 3])
def test_padding_has_no_part_in_the_statistics(gate_per, length):
    torch.manual_seed(0)
    router = StatisticsRouter((2, 3), hidden=8, per=gate_per)
    clip = [torch.randn(1, length, channels, 2, 2) for channels in (2, 3)]
    padded = [torch.full((1, 5, x.shape[2], 3, 4), float("inf")) for x in clip]
    for target, source in zip(padded, clip, strict=True):
        target[:, :length, :, :2, :2] = source
    cells = torch.zeros(1, 3, 4, dtype=torch.bool)
    cells[:, :2, :2] = True
    frames = torch.arange(5)[None] < length
    whole = BackboneFeatures(*clip, torch.ones(1, 2, 2, dtype=torch.bool))
    alone = router.of_features(whole, frames[:, :length])
    found = router.of_features(BackboneFeatures(*padded, cells), frames)
    assert found.isfinite().all() and found.shape == ((1,) if gate_per == "clip" else (1, 5))
    torch.testing.assert_close(found[..., :length], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("gate_per", ["clip", "frame"])
def test_a_router_of_statistics_reads_no_sentence_and_learns_from_labels_alone(toy, tuned, gate_per):
    grounder, tuner = tuned(**STATISTICS, gate_training="label", gate_per=gate_per)
    tuner.set_training(grounder, True)
    frames, frame_mask, queries = toy.toy_batch()
    said = []
    for sentences in (queries, queries[::-1]):
        grounder(frames, frame_mask, sentences)
        said.append(tuner.verdicts())
    assert torch.equal(*said)
    with tuner.conditioned_on(QUALITIES):
        grounder(frames, frame_mask, queries)
    tuner.auxiliary_losses(QUALITIES)["router"].backward()
    moved = {name for name, p in grounder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    router = shared_router(grounder)
    assert moved == {f"reference_point.router.{name}" for name, _ in router.named_parameters()}


def test_what_is_drawn_for_the_layers_does_not_depend_on_what_the_router_reads(toy):
    states = []
    for reads in ("gap", "statistics"):
        grounder = toy.ToyGrounder()
        NullSpaceTuning(toy.TARGETS, rank=6, router="shared", router_reads=reads, seed=3).inject(grounder)
        states.append({name: t for name, t in grounder.state_dict().items() if "router" not in name})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_offers_no_features_is_refused(toy):
    grounder = toy.ToyGrounder()
    grounder.feature_channels = ()
    with pytest.raises(ValueError, match="ToyGrounder has no feature_channels; set it, or router_reads to gap"):
        NullSpaceTuning(toy.TARGETS, rank=6, **STATISTICS).inject(grounder)
    grounder = toy.ToyGrounder()
    NullSpaceTuning(toy.TARGETS, rank=6, **STATISTICS).inject(grounder)
    grounder.reference_point.register_forward_pre_hook(lambda point, inputs: inputs[:6])
    with pytest.raises(ValueError, match="hands no features to its ReferencePoint"):
        grounder(*toy.toy_batch())


@pytest.mark.parametrize("reads", ["gap", "statistics"])
@pytest.mark.parametrize("gate_per", ["clip", "frame"])
def test_a_hard_gate_opens_above_the_threshold_alone(toy, tuned, reads, gate_per):
    grounder, tuner = tuned(router="shared", router_reads=reads, gate="hard", gate_per=gate_per)
    grounder(*toy.toy_batch())
    logits = tuner._state.shared_logits
    threshold = logits.flatten().sort().values[logits.numel() // 2]
    shared_router(grounder).threshold.copy_(threshold)
    output = toy.flat(grounder(*toy.toy_batch()))
    assert torch.equal(tuner._state.routed_gate(hard=True), (logits > threshold).float())
    assert torch.equal(tuner._state.routed_gate(hard=False), logits.sigmoid()), "a soft gate has no threshold"
    if gate_per == "clip":
        closed = logits <= threshold
        assert torch.equal(tuner.diagnostics()["gate/head"], (~closed).float())
        expected = toy.flat(toy.pretrained()(*toy.toy_batch()))
        assert torch.equal(output[:, closed], expected[:, closed])
        assert not torch.equal(output[:, ~closed], expected[:, ~closed])
