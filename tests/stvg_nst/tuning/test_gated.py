"""What all methods behind a router share: the router of null-space tuning, and what a label may do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.tuning import (
    AdapterMismatchError,
    GatedLoRA,
    NullSpaceTuning,
    Switch,
    adapter_state,
    load_adapter,
    save_adapter,
)
from stvg_nst.tuning.base import TuningModule
from stvg_nst.tuning.gated import GatedLayer, GatedTuner

TARGETS = ("pixels", "encoder.linear2", "decoder.linear2", "head")
SCOPE = ("pixels", "encoder", "decoder", "head")
QUALITIES = torch.tensor([0, 1, 1])
ROUTER = {"retrieval_width": 8, "heads": 2, "hidden": 12}
TUNERS = {
    "switch": lambda **options: Switch(SCOPE, **options),
    "switch_both": lambda **options: Switch(SCOPE, tuned_on="both", **options),
    "gated_lora": lambda **options: GatedLoRA(TARGETS, rank=6, **options),
    "gated_lora_hard": lambda **options: GatedLoRA(TARGETS, rank=6, gate="hard", **options),
}


@pytest.fixture(params=TUNERS)
def tuned(toy, request) -> tuple[nn.Module, GatedTuner]:
    """A toy under a gated method that has moved: its layers do something, and its router says something."""
    grounder, tuner = toy.ToyGrounder(), TUNERS[request.param](**ROUTER, seed=0)
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuner.trainable_parameters(grounder):
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return grounder, tuner


def test_the_router_is_that_of_null_space_tuning(toy):
    routers = []
    for tuner in (
        NullSpaceTuning(TARGETS, rank=3, router="shared", **ROUTER, seed=3),
        *(make(**ROUTER, seed=3) for make in TUNERS.values()),
    ):
        grounder = toy.ToyGrounder()
        tuner.inject(grounder)
        grounder(*toy.toy_batch())
        routers.append(grounder.reference_point.router.state_dict() | {"said": tuner._state.shared_logits})
    for router in routers[1:]:
        assert router.keys() == routers[0].keys()
        assert all(torch.equal(value, routers[0][name]) for name, value in router.items())


def test_its_loss_is_the_cross_entropy_with_the_labels_and_trains_the_router_alone(toy, tuned):
    grounder, tuner = tuned
    tuner.set_training(grounder, True)
    with tuner.conditioned_on(QUALITIES):
        grounder(*toy.toy_batch())
    loss = tuner.auxiliary_losses(QUALITIES)["router"]
    said = tuner._state.shared_logits.sigmoid()
    expected = -torch.stack([(1 - said[0]).log(), said[1].log(), said[2].log()]).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    moved = {name for name, parameter in grounder.named_parameters() if parameter.grad is not None}
    assert moved and all(name.startswith("reference_point.router.") for name in moved)
    assert TUNERS["switch"](lambda_router=0.25).loss_weights == {"router": 0.25}


def test_flipped_labels_leave_the_router_of_a_training_batch_unmoved(toy, tuned):
    grounder, tuner = tuned
    tuner.set_training(grounder, True)
    said, gates = [], []
    for labels in (QUALITIES, 1 - QUALITIES):
        with tuner.conditioned_on(labels):
            grounder(*toy.toy_batch())
        said.append(tuner.diagnostics()["router/reference_point"])
        gates.append(tuner.diagnostics()["gate/reference_point"])
        assert torch.equal(tuner.verdicts(), said[-1])
    assert torch.equal(*said)
    if getattr(tuner, "tuned_on", "low") == "low":
        assert [gate.tolist() for gate in gates] == [[0, 1, 1], [1, 0, 0]]
    else:
        assert [gate.tolist() for gate in gates] == [[1, 1, 1]] * 2


def test_no_label_is_read_outside_of_training(toy, tuned):
    grounder, tuner = tuned
    tuner.set_training(grounder, False)
    outputs = []
    for labels in (QUALITIES, 1 - QUALITIES):
        with tuner.conditioned_on(labels):
            outputs.append(toy.flat(grounder(*toy.toy_batch())))
    assert torch.equal(*outputs)
    assert torch.equal(outputs[0], toy.flat(grounder(*toy.toy_batch())))


def test_a_clip_that_the_router_takes_for_high_quality_gets_the_frozen_answer_bit_for_bit(toy, tuned):
    grounder, tuner = tuned
    frozen = toy.flat(toy.pretrained()(*toy.toy_batch()))
    for gate in ([0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 1, 1]):
        gates = torch.tensor(gate, dtype=torch.float32)
        with tuner.override_gate(gates), torch.no_grad():
            output = toy.flat(grounder(*toy.toy_batch()))
        same = [torch.equal(output[:, clip], frozen[:, clip]) for clip in range(3)]
        assert same == [not value for value in gate]


def test_what_a_clip_gets_does_not_depend_on_the_gates_of_the_others(toy, tuned):
    grounder, tuner = tuned
    with torch.no_grad():
        with tuner.override_gate(1.0):
            open_to_all = toy.flat(grounder(*toy.toy_batch()))
        with tuner.override_gate(torch.tensor([0.0, 1.0, 0.0])):
            mixed = toy.flat(grounder(*toy.toy_batch()))
    torch.testing.assert_close(mixed[:, 1], open_to_all[:, 1], rtol=1e-5, atol=1e-6)


def test_the_router_decides_hard_or_softly(toy, tuned):
    grounder, tuner = tuned
    with torch.no_grad():
        grounder(*toy.toy_batch())
        grounder.reference_point.router.router.mlp.outer.bias -= tuner._said.median() + 1e-3
        output = toy.flat(grounder(*toy.toy_batch()))
    found = tuner.diagnostics()
    gate, said = found["gate/reference_point"], found["router/reference_point"]
    assert said.min() < 0.5 < said.max()
    assert torch.equal(gate, said.round() if tuner.hard else said)
    with tuner.override_gate(gate), torch.no_grad():
        assert torch.equal(toy.flat(grounder(*toy.toy_batch())), output)


@pytest.mark.parametrize("name", TUNERS)
def test_layers_that_run_again_in_the_backward_pass_have_the_gate_of_the_first_time(toy, name):
    gradients = []
    for checkpointing in (None, False):
        grounder, tuner = toy.ToyGrounder(checkpointing=checkpointing), TUNERS[name](seed=0)
        tuner.inject(grounder)
        tuner.set_training(grounder, True)
        with tuner.conditioned_on(QUALITIES):
            loss = toy.flat(grounder(*toy.toy_batch())).square().mean()
        (loss + tuner.auxiliary_losses(QUALITIES)["router"]).backward()
        gradients.append([p.grad for p in tuner.trainable_parameters(grounder)])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_every_parameter_stays_in_the_graph_where_all_clips_are_of_high_quality(toy, tuned):
    grounder, tuner = tuned
    tuner.set_training(grounder, True)
    labels = torch.zeros(3, dtype=torch.int64)
    with tuner.conditioned_on(labels):
        loss = toy.flat(grounder(*toy.toy_batch())).square().mean()
        (loss + tuner.auxiliary_losses(labels)["router"]).backward()
    layers = [module for module in grounder.modules() if isinstance(module, GatedLayer)]
    tuned_parameters = {p for layer in layers for p in layer.parameters() if p.requires_grad}
    assert tuned_parameters
    for name, parameter in grounder.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            if parameter in tuned_parameters and getattr(tuner, "tuned_on", "low") == "low":
                assert not parameter.grad.any(), name


@pytest.mark.parametrize("name", ["switch", "gated_lora"])
def test_an_adapter_loads_under_other_options_of_training_and_another_gate(toy, tmp_path, name):
    grounder, tuner = toy.ToyGrounder(), TUNERS[name](seed=0)
    tuner.inject(grounder)
    save_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
    other = TUNERS[{"switch": "switch_both", "gated_lora": "gated_lora_hard"}[name]](seed=1, lambda_router=2.0)
    loaded = toy.ToyGrounder()
    other.inject(loaded)
    load_adapter(tmp_path / "adapter.safetensors", loaded, other)
    for key, value in adapter_state(grounder).items():
        assert torch.equal(adapter_state(loaded)[key], value)
    wider = TUNERS[name](retrieval_width=8)
    wider.inject(model := toy.ToyGrounder())
    with pytest.raises(AdapterMismatchError, match="options: 'retrieval_width': expected None, got 8"):
        load_adapter(tmp_path / "adapter.safetensors", model, wider)


def test_a_forward_is_needed_before_anything_is_said_of_it(toy):
    for make in TUNERS.values():
        tuner = make()
        tuner.inject(toy.ToyGrounder())
        for ask in (tuner.diagnostics, lambda tuner=tuner: tuner.auxiliary_losses(QUALITIES)):
            with pytest.raises(RuntimeError, match="has seen no forward yet; call the grounder first"):
                ask()


def test_a_layer_whose_gate_cannot_be_known_is_refused(toy):
    grounder = toy.ReadingToy()
    GatedLoRA(["reading"], rank=2).inject(grounder)
    with pytest.raises(ValueError, match=r"'reading' runs ahead of the router, .* tune what lies behind it"):
        grounder(*toy.toy_batch())
    grounder = toy.ToyGrounder()
    GatedLoRA(TARGETS, rank=2).inject(grounder)
    grounder(*toy.toy_batch())
    with pytest.raises(ValueError, match=r"input of 'head' must have the 3 clips on its first axis, got \(5, 3, 16\)"):
        grounder.head(torch.zeros(5, 3, 16))


@pytest.mark.parametrize(
    "make", [lambda **o: NullSpaceTuning(TARGETS, rank=3, router="shared", **o), *TUNERS.values()], ids=["nst", *TUNERS]
)
def test_a_model_whose_router_would_have_nothing_to_read_is_refused_and_left_as_it_was(toy, make):
    grounder, tuner = toy.ToyGrounder(), make(router_reads="statistics")
    grounder.feature_channels = ()
    with pytest.raises(ValueError, match="ToyGrounder has no feature_channels; set it, or router_reads to gap"):
        tuner.inject(grounder)
    assert not any(isinstance(module, TuningModule) for module in grounder.modules())
    assert all(parameter.requires_grad for parameter in grounder.parameters())
    grounder.feature_channels = (3, 3)
    tuner.inject(grounder)


def test_a_model_without_a_place_for_the_router_and_nonsense_are_refused(toy):
    with pytest.raises(ValueError, match=r"GatedLoRA needs a Grounder, .* got Sequential; tune another model by"):
        GatedLoRA(["0"], rank=2).inject(nn.Sequential(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match="heads must divide the width of retrieval 16, got 3"):
        Switch(["encoder"], heads=3).inject(toy.ToyGrounder())
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        Switch(["encoder"], hidden=0)
    with pytest.raises(ValueError, match="tuned_on must be one of low, both, got 'high'"):
        Switch(["encoder"], tuned_on="high")
    with pytest.raises(ValueError, match="gate must be one of soft, hard, got 'ajar'"):
        GatedLoRA(TARGETS, gate="ajar")
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        GatedLoRA(TARGETS, alpha=0)
