"""The tuned layer: eq. (1), its gates, and what a hard gate skips."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.models.base import TokenGrid
from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning.adapter import save_adapter
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization

QUALITIES = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("rule", [("exact", None), ("relative", 0.4)])
@pytest.mark.parametrize("gate_per", ["clip", "frame"])
@pytest.mark.parametrize("coefficients_from", ["reference", "reference_and_gap"])
def test_literal_and_separate_forward_agree(toy, tuned, rule, gate_per, coefficients_from):
    # Targets with an exact null space, and (linear1, 40 x 16) with one that only a tolerance gives, and that leaks.
    targets = [*toy.TARGETS, "encoder.linear1"]
    outputs = []
    for mode in ("separate", "literal"):
        options = {
            "rank_rule": rule[0],
            "rank_threshold": rule[1],
            "gate_per": gate_per,
            "coefficients_from": coefficients_from,
        }
        grounder, _ = tuned(targets, forward_mode=mode, **options)
        outputs.append(toy.flat(grounder(*toy.toy_batch())))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-6, rtol=1e-6)


def test_the_residual_does_something(toy, tuned):
    grounder, _ = tuned()
    assert (toy.flat(grounder(*toy.toy_batch())) - toy.flat(toy.pretrained()(*toy.toy_batch()))).abs().max() > 0.05


def test_eq_1_and_5_by_hand(coefficients):
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    dual_space = DualSpaceReparameterization(weight, split_dual_space(weight), rank=1)
    torch.testing.assert_close(dual_space.row_basis, torch.tensor([[1.0], [0.0], [0.0]]))
    torch.testing.assert_close(dual_space.null_basis, torch.tensor([[0.0], [0.0], [1.0]]))
    gate, row, null = torch.tensor([[[0.25]]]), *(coefficients(torch.tensor([[[value]]])) for value in (8.0, 4.0))
    residual = dual_space.residual(gate, row, null)
    torch.testing.assert_close(residual, torch.tensor([[[2.0, 0.0, 3.0]]]))
    torch.testing.assert_close(dual_space.image(weight, gate, row, null), torch.tensor([[[6.0, 0.0]]]))
    torch.testing.assert_close(dual_space.image(weight, gate, row, null), residual @ weight.T)


@pytest.mark.parametrize("forward_mode", ["separate", "literal"])
def test_a_closed_gate_gives_the_pretrained_function_back_after_training(toy, forward_mode):
    grounder, base = toy.ToyGrounder(), toy.pretrained()
    tuner = NullSpaceTuning(toy.TARGETS, rank=6, forward_mode=forward_mode)
    tuner.inject(grounder)
    toy.train(grounder, tuner)
    expected = toy.flat(base(*toy.toy_batch()))
    assert (toy.flat(grounder(*toy.toy_batch())) - expected).abs().max() > 1e-3
    with tuner.override_gate(0.0):
        tolerance = 0 if forward_mode == "separate" else 1e-6
        torch.testing.assert_close(toy.flat(grounder(*toy.toy_batch())), expected, atol=tolerance, rtol=0)


def test_a_gate_is_forced_for_each_clip_and_only_inside_the_block(toy, tuned):
    grounder, tuner = tuned()
    free = toy.flat(grounder(*toy.toy_batch()))
    base = toy.flat(toy.pretrained()(*toy.toy_batch()))
    with tuner.override_gate(torch.tensor([0.0, 1.0, 0.0])):
        mixed = toy.flat(grounder(*toy.toy_batch()))
        assert tuner.diagnostics()["gate/head"].tolist() == [0, 1, 0]
        assert tuner.diagnostics()["router/head"].tolist() != [0, 1, 0]
        with tuner.override_gate(None):
            assert torch.equal(toy.flat(grounder(*toy.toy_batch())), free)
        assert torch.equal(toy.flat(grounder(*toy.toy_batch())), mixed)
    torch.testing.assert_close(mixed[:, [0, 2]], base[:, [0, 2]], atol=1e-6, rtol=0)
    assert (mixed[:, 1] - base[:, 1]).abs().max() > 0.05
    with pytest.raises(ZeroDivisionError), tuner.override_gate(1.0):
        _ = 1 / 0
    assert torch.equal(toy.flat(grounder(*toy.toy_batch())), free)
    for wrong in (1.5, torch.tensor([0.0, -0.1, 1.0])):
        with pytest.raises(ValueError, match=r"in \[0, 1\], got"), tuner.override_gate(wrong):
            pass


def test_frame_gates_take_a_forced_value_too(toy, tuned):
    grounder, tuner = tuned(gate_per="frame")
    base = toy.flat(toy.pretrained()(*toy.toy_batch()))
    for value in (0.0, torch.zeros(3), torch.zeros(3, 5)):
        with tuner.override_gate(value):
            torch.testing.assert_close(toy.flat(grounder(*toy.toy_batch())), base, atol=1e-6, rtol=0)


@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize("router", ["shared", "layer"])
def test_a_gate_a_frame_follows_the_frames_of_an_input_that_has_others(toy, tuned, gate, router):
    grounder, tuner = tuned(router=router, gate=gate, gate_per="frame")
    every_other = TokenGrid(torch.ones(3, 3, 7, dtype=torch.bool), torch.tensor([0, 2, 4]))
    grounder.reference_point.register_forward_pre_hook(
        lambda point, inputs: (*inputs[:-1], (*inputs[-1], every_other)), prepend=True
    )
    gates = torch.tensor([[0.0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 0, 1, 0, 1]])
    layer, x = grounder.decoder.linear2, torch.randn(3, 3, 7, 48)
    with tuner.override_gate(gates):
        grounder(*toy.toy_batch())
        moved = layer(x) != layer.base_layer(x)
        assert tuner.diagnostics()["gate/decoder.linear2"].shape == (3,)
    # The third sampled frame of the second clip is padding, whose gate was shut like all of its others.
    assert moved.any(dim=(2, 3)).tolist() == [[False, True, False], [False] * 3, [True] * 3]
    tuner.set_training(grounder, True)
    grounder(*toy.toy_batch())
    layer(x)
    assert all(loss.isfinite() for loss in tuner.auxiliary_losses(QUALITIES).values())


def test_hard_gate_rounds_at_inference_only(toy, tuned):
    grounder, tuner = tuned(gate="hard")
    grounder(*toy.toy_batch())
    values = tuner.diagnostics()
    assert torch.equal(values["gate/encoder.linear2"], values["router/encoder.linear2"].round())
    tuner.set_training(grounder, True)
    grounder(*toy.toy_batch())
    values = tuner.diagnostics()
    assert torch.equal(values["gate/encoder.linear2"], values["router/encoder.linear2"])
    assert not torch.equal(values["gate/encoder.linear2"], values["gate/encoder.linear2"].round())


VARIANTS = (
    {"router": "shared"},
    {"router": "shared", "gate_per": "frame"},
    {"retrieval_width": 8},
    {"retrieval_width": 8, "router": "shared", "coefficients_from": "reference_and_gap"},
    {"coefficients_from": "input"},
    {"coefficients_from": "input", "router": "shared", "retrieval_width": 8},
    {"coefficients_per": "frame"},
    {"coefficients_per": "clip", "router": "shared"},
    {"basis": "random"},
    {"basis": "learned", "lambda_leak": 0.5},
    {"basis": "learned", "null_branch": False},
    {"gate": "open"},
)


def named(options: dict) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("options", VARIANTS, ids=named)
def test_every_variant_starts_at_the_pretrained_function_and_learns_all_it_has(toy, options):
    grounder, base = toy.ToyGrounder(), toy.pretrained()
    tuner = NullSpaceTuning(toy.TARGETS, rank=6, hidden=16, **options)
    tuner.inject(grounder)
    torch.testing.assert_close(
        toy.flat(grounder(*toy.toy_batch())), toy.flat(base(*toy.toy_batch())), atol=1e-6, rtol=0
    )
    before = [parameter.detach().clone() for parameter in tuner.trainable_parameters(grounder)]
    toy.train(grounder, tuner)
    for parameter, old in zip(tuner.trainable_parameters(grounder), before, strict=True):
        assert not torch.equal(parameter, old)
    assert all(value.isfinite().all() for value in tuner.diagnostics().values())
    assert set(tuner.loss_weights) == set(tuner.auxiliary_losses(QUALITIES))
    with tuner.bypass():
        assert torch.equal(toy.flat(grounder(*toy.toy_batch())), toy.flat(base(*toy.toy_batch())))


@pytest.mark.parametrize("options", VARIANTS, ids=named)
def test_literal_and_separate_forward_agree_in_every_variant(toy, tuned, options):
    outputs = []
    for mode in ("separate", "literal"):
        grounder, _ = tuned(forward_mode=mode, **options)
        outputs.append(toy.flat(grounder(*toy.toy_batch())))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", [("exact", None), ("relative", 0.4)])
@pytest.mark.parametrize("options", VARIANTS, ids=named)
def test_folding_changes_no_output(toy, tuned, options, rule, tmp_path):
    grounder, tuner = tuned([*toy.TARGETS, "encoder.linear1"], rank_rule=rule[0], rank_threshold=rule[1], **options)
    expected = toy.flat(grounder(*toy.toy_batch()))
    parameters = sum(parameter.numel() for parameter in grounder.parameters())
    tuner.fold(grounder)
    torch.testing.assert_close(toy.flat(grounder(*toy.toy_batch())), expected, atol=1e-5, rtol=1e-5)
    if rule[0] == "exact" and options.get("basis", "svd") == "svd":
        assert sum(parameter.numel() for parameter in grounder.parameters()) < parameters
    with pytest.raises(RuntimeError, match="save it before folding"):
        save_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
    with pytest.raises(RuntimeError, match="a folded model has nothing to train any more; build the model and"):
        tuner.set_training(grounder, True)
    tuner.set_training(grounder, False)
    with pytest.raises(RuntimeError, match="with 0 wrapped layers, got one with 4"):
        NullSpaceTuning(toy.TARGETS, rank=6).fold(grounder)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("gates", [(0, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_a_hard_shared_gate_leaves_the_clips_it_closes_on_bit_for_bit(toy, tuned, gates, folded):
    grounder, tuner = tuned(router="shared", gate="hard")
    if folded:
        tuner.fold(grounder)
    calls: list[int] = []
    for layer in toy.layers_of(grounder):
        layer.unit.register_forward_hook(lambda unit, inputs, output: calls.append(len(inputs[0])))
    expected = toy.flat(toy.pretrained()(*toy.toy_batch()))
    with tuner.override_gate(torch.tensor(gates, dtype=torch.float32)):
        output = toy.flat(grounder(*toy.toy_batch()))
    for clip, gate in enumerate(gates):
        assert torch.equal(output[:, clip], expected[:, clip]) == (not gate)
    assert calls == [sum(gates)] * len(calls)
    assert bool(calls) == any(gates)
    if not folded:
        energies = tuner.diagnostics()
        assert (energies["row_energy/encoder.linear2"] > 0) == any(gates)


@pytest.mark.parametrize("router", ["shared", "layer"])
def test_a_padded_frame_opens_no_clip(toy, tuned, router):
    """Else the leak of a null space that is not exact would come and go with the clips that share a batch."""
    leaking = {"rank_rule": "relative", "rank_threshold": 0.4}
    grounder, tuner = tuned(router=router, gate="hard", gate_per="frame", **leaking)
    gates = (~toy.toy_batch()[1]).float()
    with tuner.override_gate(gates):
        output = toy.flat(grounder(*toy.toy_batch()))
    assert torch.equal(output, toy.flat(toy.pretrained()(*toy.toy_batch())))


def test_a_gate_forced_on_hard_routers_of_the_layers_leaves_their_verdict_readable(toy, tuned):
    grounder, tuner = tuned(gate="hard")
    grounder(*toy.toy_batch())
    router = tuner.diagnostics()["router/head"]
    with tuner.override_gate(0.0):
        grounder(*toy.toy_batch())
    assert tuner.diagnostics()["gate/head"].tolist() == [0, 0, 0]
    assert tuner.diagnostics()["router/encoder.linear2"].shape == router.shape
    assert tuner.auxiliary_losses(QUALITIES)["router"] > 0


def test_skipping_changes_nothing_for_the_clips_that_stay_open(toy, tuned):
    gates = torch.tensor([0.0, 1.0, 0.0])
    skipping, tuner = tuned(router="shared", gate="hard")
    with tuner.override_gate(gates):
        some = toy.flat(skipping(*toy.toy_batch()))
        energies = tuner.diagnostics()
    full, tuner = tuned(router="shared", gate="soft")
    with tuner.override_gate(gates):
        torch.testing.assert_close(toy.flat(full(*toy.toy_batch())), some, atol=1e-6, rtol=1e-6)
        for name, value in tuner.diagnostics().items():
            if name.startswith(("row_energy", "gate")):
                torch.testing.assert_close(value, energies[name])


@pytest.mark.parametrize("router", ["shared", "layer"])
def test_an_open_hard_gate_keeps_the_literal_form(toy, tuned, router):
    gates = torch.tensor([0.0, 1.0, 0.0])

    def answer(**options):
        grounder, tuner = tuned(router=router, **options)
        with tuner.override_gate(gates):
            return toy.flat(grounder(*toy.toy_batch()))[:, 1]

    literal, separate = (answer(forward_mode=mode) for mode in ("literal", "separate"))
    assert not torch.equal(literal, separate), "they differ by rounding"
    assert torch.equal(answer(forward_mode="literal", gate="hard"), literal)


def test_gates_trained_by_their_labels_send_each_clip_one_way_and_teach_the_router_beside_it(toy, tuned):
    grounder, tuner = tuned(router="shared", gate_training="label")
    tuner.set_training(grounder, True)
    with tuner.conditioned_on(QUALITIES):
        grounder(*toy.toy_batch())
    gates = {name: value for name, value in tuner.diagnostics().items() if name.startswith("gate/")}
    assert gates and all(torch.equal(gate, QUALITIES.float()) for gate in gates.values())
    losses = tuner.auxiliary_losses(QUALITIES)
    losses["router"].backward()
    router = [name for name, p in grounder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert router and all(".router." in name for name in router)


@pytest.mark.parametrize("router_reads", ["gap", "statistics"])
def test_labels_that_train_the_gates_reach_no_router_and_no_evaluation(toy, tuned, router_reads):
    targets = ["pixels", *toy.TARGETS]  # the first of them makes the tokens that a router reads
    grounder, tuner = tuned(targets, rank=3, router="shared", router_reads=router_reads, gate_training="label")
    tuner.set_training(grounder, True)
    logits = []
    for labels in (QUALITIES, 1 - QUALITIES):
        with tuner.conditioned_on(labels):
            grounder(*toy.toy_batch())
        logits.append(next(value for name, value in tuner.diagnostics().items() if name.startswith("router/")))
    assert torch.equal(*logits)

    tuner.set_training(grounder, False)
    outputs = []
    for labels in (QUALITIES, 1 - QUALITIES):
        with tuner.conditioned_on(labels):
            outputs.append(toy.flat(grounder(*toy.toy_batch())))
    assert torch.equal(*outputs)


def test_a_batch_of_one_quality_keeps_every_parameter_in_the_graph(toy, tuned):
    grounder, tuner = tuned(router="shared", gate_training="label")
    tuner.set_training(grounder, True)
    all_high = torch.zeros_like(QUALITIES)
    with tuner.conditioned_on(all_high):
        loss = toy.flat(grounder(*toy.toy_batch())).square().mean()
    for name, value in tuner.auxiliary_losses(all_high).items():
        loss = loss + tuner.loss_weights[name] * value
    loss.backward()
    assert all(parameter.grad is not None for parameter in tuner.trainable_parameters(grounder))


def test_a_jittered_gate_stays_near_its_label(toy, tuned):
    grounder, tuner = tuned(router="shared", gate_training="label", gate_jitter=0.25)
    tuner.set_training(grounder, True)
    with tuner.conditioned_on(QUALITIES):
        grounder(*toy.toy_batch())
    gate = next(value for name, value in tuner.diagnostics().items() if name.startswith("gate/"))
    distance = (gate - QUALITIES.float()).abs()
    assert (distance > 0).all() and (distance <= 0.25).all()
