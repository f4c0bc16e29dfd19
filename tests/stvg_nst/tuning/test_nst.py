"""Null-space tuning on the toy grounder; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import copy
import math
import pickle
from types import ModuleType

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from stvg_nst.models.base import Reference
from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning.adapter import adapter_state, save_adapter
from stvg_nst.tuning.base import Tuner
from stvg_nst.tuning.dual_space import DualSpaceReparameterization
from stvg_nst.tuning.nst import NullSpaceLinear, NullSpaceTuning, ReferenceTokens, _share
from stvg_nst.tuning.objective import null_leak, residual_energies, router_loss, subspace_regulariser
from stvg_nst.tuning.qau import QualityAdaptiveUnit, Retrieval
from stvg_nst.tuning.reference import CallRecord, ReferenceBank, masked_mean

QUALITIES = torch.tensor([0, 1, 1])


@pytest.fixture
def tuned(toy: ModuleType):
    """A tuned toy whose heads are random, so that every branch does something; options as keywords."""

    def make(targets=None, *, grounder=None, scale: float = 0.3, **options):
        grounder = toy.ToyGrounder() if grounder is None else grounder
        options = {"rank": 6, "hidden": 16} | options
        tuner = NullSpaceTuning(targets=toy.TARGETS if targets is None else targets, **options)
        tuner.inject(grounder)
        generator = torch.Generator().manual_seed(1)
        for layer in layers_of(grounder):
            for head in (layer.unit.row_head, layer.unit.null_head):
                if head is not None:
                    weight = head.outer.weight
                    weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
        return grounder, tuner

    return make


def layers_of(grounder: nn.Module) -> list[NullSpaceLinear]:
    return [module for module in grounder.modules() if isinstance(module, NullSpaceLinear)]


# --- equations ------------------------------------------------------------------------------------------------------


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


def test_eq_1_and_5_by_hand():
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    dual_space = DualSpaceReparameterization(weight, split_dual_space(weight), rank=1)
    torch.testing.assert_close(dual_space.row_basis, torch.tensor([[1.0], [0.0], [0.0]]))
    torch.testing.assert_close(dual_space.null_basis, torch.tensor([[0.0], [0.0], [1.0]]))
    gate, row, null = torch.tensor([[[0.25]]]), torch.tensor([[[8.0]]]), torch.tensor([[[4.0]]])
    residual = dual_space.residual(gate, row, null)
    torch.testing.assert_close(residual, torch.tensor([[[2.0, 0.0, 3.0]]]))
    torch.testing.assert_close(dual_space.image(weight, gate, row, null), torch.tensor([[[6.0, 0.0]]]))
    torch.testing.assert_close(dual_space.image(weight, gate, row, null), residual @ weight.T)


def test_eq_2_bank_by_hand():
    visual = torch.arange(16.0).view(1, 2, 4, 2)
    reference = Reference(
        visual=visual.requires_grad_(),
        visual_mask=torch.tensor([[[True, True, False, False], [True, True, True, True]]]),
        text=torch.full((1, 2, 2), 7.0),
        text_mask=torch.tensor([[True, False]]),
        frame_mask=torch.tensor([[True, False]]),
        memory_mask=torch.ones(1, 2, 3, dtype=torch.bool),
    )
    bank = ReferenceBank.of(reference)
    # Frame 0 is real, and its first two tokens are: (0, 1) and (2, 3).
    assert bank.tokens.tolist() == [[[1.0, 2.0], [7.0, 7.0], [7.0, 7.0]]]
    assert bank.mask.tolist() == [[True, True, False]]
    assert bank.memory_mask.tolist() == [[[True] * 3, [False] * 3]]
    assert not bank.tokens.requires_grad


@pytest.mark.parametrize("coefficients_from", ["reference", "reference_and_gap"])
def test_eq_3_and_4_and_the_gap_by_hand(coefficients_from):
    torch.manual_seed(0)
    options = {"heads": 2, "hidden": 8, "gate_per": "clip", "coefficients_per": "token", "routes": True}
    unit = QualityAdaptiveUnit(4, 4, width=4, row_rank=3, null_rank=2, coefficients_from=coefficients_from, **options)
    attention = unit.retrieval.attention
    nn.init.eye_(attention.out.weight)
    nn.init.zeros_(attention.query.weight)  # with zero queries every real token of the bank weighs the same
    nn.init.zeros_(attention.query.bias)
    x = torch.randn(1, 3, 4)
    mask = torch.tensor([[True, True, False]])
    bank = ReferenceBank(torch.randn(1, 4, 4), torch.tensor([[True, True, True, False]]), mask, mask[..., None])
    found = attention.value(bank.tokens[:, :3]).mean(1, keepdim=True).expand(1, 3, 4) + attention.out.bias
    gap = x - found
    source = found if coefficients_from == "reference" else torch.cat([found, gap], dim=-1)
    row, null, logits = unit(x, bank, mask)
    torch.testing.assert_close(row, unit.row_head(source))
    torch.testing.assert_close(null, unit.null_head(source))
    pooled = torch.cat([gap[:, :2].mean(1), gap[:, :2].abs().mean(1)], dim=-1)
    torch.testing.assert_close(logits, unit.router.mlp(pooled).squeeze(-1))


@pytest.mark.parametrize("basis", ["svd", "learned"])
def test_energies_are_the_squared_norms_of_the_parts(basis):
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    space = DualSpaceReparameterization(weight, split_dual_space(weight), rank=2, basis=basis)
    with torch.no_grad():  # learned directions need not stay orthonormal
        for directions in (space.row_basis, space.null_basis) if basis == "learned" else ():
            directions.mul_(torch.tensor([2.0, 0.5])).add_(0.1)
    row, null = torch.randn(4, 5, 2), torch.randn(4, 5, 2)
    row_energy, null_energy = space.energies(row, null)
    torch.testing.assert_close(row_energy, (row @ space.row_basis.T).square().sum(-1))
    torch.testing.assert_close(null_energy, (null @ space.null_basis.T).square().sum(-1))


def test_eq_6_and_7_by_hand():
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    call = CallRecord(
        row=torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[3.0, 0.0], [0.0, 1.0]]]),  # norms 5, (padding), 9, 1
        null=torch.tensor([[[2.0], [9.0]], [[0.0], [4.0]]]),  # 4, (padding), 0, 16
        logits=torch.tensor([0.0, math.log(3.0)]),  # g = 1 / 2 and 3 / 4
        gate=torch.tensor([0.5, 0.75]),
        mask=torch.tensor([[True, False], [True, True]]),
        space=DualSpaceReparameterization(weight, split_dual_space(weight), rank=2),
        weight=weight,
    )
    labels = torch.tensor([0.0, 1.0])
    assert router_loss(call.logits, labels, call.mask).item() == pytest.approx((-math.log(0.5) - math.log(0.75)) / 2)
    assert subspace_regulariser(call, labels).item() == pytest.approx((5 + 0 + 16) / 3)
    rowless = call._replace(null=None)
    assert subspace_regulariser(rowless, labels).item() == pytest.approx(5 / 3)
    energies = {part: value.item() for part, value in residual_energies(call).items()}
    assert energies["row"] == pytest.approx((5 + 9 + 1) / 3)
    assert energies["null"] == pytest.approx((4 + 0 + 16) / 3)
    assert energies["gated_row"] == pytest.approx((5 / 4 + 9 * 9 / 16 + 9 / 16) / 3)
    assert energies["gated_null"] == pytest.approx((4 / 4 + 0 + 16 / 16) / 3)
    assert residual_energies(rowless)["gated_null"].item() == 0
    skipped = call._replace(row=call.row[1:], null=call.null[1:], clips=torch.tensor([1]))
    assert residual_energies(skipped)["gated_row"].item() == pytest.approx((9 * 9 / 16 + 9 / 16) / 3)

    framewise = torch.tensor([[0.0, 99.0], [0.0, math.log(3.0)]])
    expected = (-math.log(0.5) + (-math.log(0.5) - math.log(0.75)) / 2) / 2
    assert router_loss(framewise, labels, call.mask).item() == pytest.approx(expected)


def test_auxiliary_losses_average_the_layers_and_the_calls_of_a_shared_layer(toy, tuned):
    grounder, tuner = tuned()
    grounder(*toy.toy_batch())
    records = tuner._state.read(["head"], close=False)
    assert {name: len(calls) for name, calls in records.items()} == {
        "encoder.linear2": 1,
        "decoder.linear2": 1,
        "head": 2,
    }
    losses = tuner.auxiliary_losses(QUALITIES)
    labels = QUALITIES.float()
    functions = {
        "router": lambda call: router_loss(call.logits, labels, call.frame_mask),
        "reg": lambda call: subspace_regulariser(call, labels),
    }
    for name, function in functions.items():
        per_layer = [sum(function(call) for call in calls) / len(calls) for calls in records.values()]
        torch.testing.assert_close(losses[name], sum(per_layer) / 3)
    assert set(tuner.loss_weights) == set(losses)
    assert NullSpaceTuning(["a"], lambda_router=0.7, lambda_reg=0.2).loss_weights == {"router": 0.7, "reg": 0.2}


def test_masked_mean_ignores_what_padding_holds():
    values = torch.tensor([[[1.0], [3.0], [float("inf")]], [[float("nan")]] * 3])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_mean(values, mask).tolist() == [[2.0], [0.0]]


# --- preservation ---------------------------------------------------------------------------------------------------


def train(toy: ModuleType, grounder: nn.Module, tuner: NullSpaceTuning, *, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(grounder), lr=1e-2)
    tuner.set_training(grounder, True)
    for step in range(steps):
        output = toy.flat(grounder(*toy.toy_batch(step)))
        losses = tuner.auxiliary_losses(QUALITIES)
        total = output.square().mean() + sum(tuner.loss_weights[name] * loss for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    tuner.set_training(grounder, False)


@pytest.mark.parametrize("forward_mode", ["separate", "literal"])
def test_a_closed_gate_gives_the_pretrained_function_back_after_training(toy, forward_mode):
    grounder, base = toy.ToyGrounder(), toy.pretrained()
    tuner = NullSpaceTuning(toy.TARGETS, rank=6, forward_mode=forward_mode)
    tuner.inject(grounder)
    train(toy, grounder, tuner)
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


def test_the_task_gives_the_null_branch_no_gradient_and_eq_7_does(toy, tuned):
    grounder, tuner = tuned()
    output = toy.flat(grounder(*toy.toy_batch()))
    heads = [layer.unit.null_head.outer.weight for layer in layers_of(grounder)]
    assert torch.autograd.grad(output.square().sum(), heads, retain_graph=True, allow_unused=True) == (None,) * 3
    for gradient in torch.autograd.grad(tuner.auxiliary_losses(QUALITIES)["reg"], heads):
        assert gradient.abs().max() > 0

    grounder, _ = tuned(forward_mode="literal")
    heads = [layer.unit.null_head.outer.weight for layer in layers_of(grounder)]
    rows = [layer.unit.row_head.outer.weight for layer in layers_of(grounder)]
    loss = toy.flat(grounder(*toy.toy_batch())).square().sum()
    for null, row in zip(
        torch.autograd.grad(loss, heads, retain_graph=True), torch.autograd.grad(loss, rows), strict=True
    ):
        assert null.norm() < 1e-5 * row.norm()


def test_a_leaking_null_branch_starts_at_zero_and_gets_a_gradient(toy):
    grounder, base = toy.ToyGrounder(), toy.pretrained()
    report = NullSpaceTuning(["encoder.linear1"], rank=6, rank_rule="relative", rank_threshold=0.4).inject(grounder)
    assert report.layers[0].nullity > 0
    assert report.layers[0].leakage > 1e-2
    output = toy.flat(grounder(*toy.toy_batch()))
    torch.testing.assert_close(output, toy.flat(base(*toy.toy_batch())), atol=0, rtol=0)
    output.square().sum().backward()
    assert grounder.encoder.linear1.unit.null_head.outer.weight.grad.abs().max() > 0


# --- options of the quality-adaptive unit ---------------------------------------------------------------------------

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
    train(toy, grounder, tuner)
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
    with pytest.raises(RuntimeError, match="with 0 wrapped layers, got one with 4"):
        NullSpaceTuning(toy.TARGETS, rank=6).fold(grounder)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("gates", [(0, 0, 0), (0, 1, 0), (1, 1, 1)])
def test_a_hard_shared_gate_leaves_the_clips_it_closes_on_bit_for_bit(toy, tuned, gates, folded):
    grounder, tuner = tuned(router="shared", gate="hard")
    if folded:
        tuner.fold(grounder)
    calls: list[int] = []
    for layer in layers_of(grounder):
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


@pytest.mark.parametrize("router", ["layer", "shared"])
def test_coefficients_from_the_input_look_nothing_up(tuned, router):
    grounder, _ = tuned(router=router, coefficients_from="input")
    assert not any(isinstance(module, Retrieval) for module in grounder.modules())


def test_a_shared_router_is_one_and_is_saved_with_the_adapter(toy, tuned):
    grounder, tuner = tuned(router="shared")
    grounder(*toy.toy_batch())
    values = tuner.diagnostics()
    assert torch.equal(values["gate/head"], values["gate/encoder.linear2"])
    assert any(name.startswith("reference_point.router.") for name in adapter_state(grounder))
    assert not any("unit.router" in name for name in adapter_state(grounder))


def test_an_oracle_gate_needs_the_label_and_takes_it(toy, tuned):
    grounder, tuner = tuned(gate="oracle")
    with pytest.raises(RuntimeError, match="none was given; run the forward inside"):
        grounder(*toy.toy_batch())
    base = toy.flat(toy.pretrained()(*toy.toy_batch()))
    with tuner.conditioned_on(QUALITIES):
        output = toy.flat(grounder(*toy.toy_batch()))
    assert torch.equal(output[:, 0], base[:, 0])
    assert set(tuner.auxiliary_losses(QUALITIES)) == {"reg"}
    _, soft = tuned()
    with soft.conditioned_on(QUALITIES):
        assert soft._state.forced_gate is None


def test_a_learned_basis_can_learn_not_to_leak_and_only_by_its_loss(toy, tuned):
    leaks = {}
    for weight in (0.0, 10.0):
        grounder, tuner = tuned(basis="learned", lambda_leak=weight)
        train(toy, grounder, tuner, steps=60)
        grounder(*toy.toy_batch())
        records = tuner._state.read(["encoder.linear2"], close=False)["encoder.linear2"]
        leaks[weight] = null_leak(records[0]).item()
    assert leaks[10.0] < 0.2 * leaks[0.0]


# --- where it is inserted -------------------------------------------------------------------------------------------


def test_a_strategy_chooses_among_the_targets(toy):
    def chosen(**options) -> list[str]:
        return [layer.name for layer in NullSpaceTuning(["*coder"], rank=6, **options).inject(toy.ToyGrounder()).layers]

    assert chosen(strategy="structural") == ["encoder.linear2", "decoder.linear2"]
    assert chosen(strategy="structural", exclude=["encoder"]) == ["decoder.linear2"]
    assert chosen(strategy="high_nullity", share=0.25) == ["decoder.linear2"]
    draws = {tuple(chosen(strategy="random", share=0.5, seed=seed)) for seed in range(8)}
    assert len(draws) > 1


def test_a_store_is_read_and_gives_the_same_function(toy, tuned, tmp_path, monkeypatch):
    grounder, _ = tuned(spaces=tmp_path)
    expected = toy.flat(grounder(*toy.toy_batch()))
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: pytest.fail("decomposed again"))
    again, _ = tuned(spaces=tmp_path)
    assert torch.equal(toy.flat(again(*toy.toy_batch())), expected)


class Pointwise(nn.Module):
    """A frozen model that grounds nothing: maps in, logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2)
        self.mix = nn.Conv2d(12, 5, 1)
        self.out = nn.Linear(5, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.out(self.mix(self.stem(images).relu()).flatten(2).transpose(1, 2)).mean(1)


def test_any_frozen_module_will_do_whose_reference_is_named():
    torch.manual_seed(0)
    model, images = Pointwise(), torch.randn(3, 3, 9, 9)
    expected = model(images)
    tuner = NullSpaceTuning(["mix", "out"], rank=4, reference=ReferenceTokens("stem", width=12))
    report = tuner.inject(model)
    assert [(layer.name, layer.shape, layer.nullity) for layer in report.layers] == [
        ("mix", (5, 12), 7),
        ("out", (2, 5), 3),
    ]
    torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=0)
    for layer in layers_of(model):
        nn.init.normal_(layer.unit.row_head.outer.weight, std=0.5)
    literal = copy.deepcopy(model)
    for layer in layers_of(literal):
        layer.forward_mode = "literal"
    torch.testing.assert_close(literal(images), model(images), atol=1e-5, rtol=1e-5)
    assert (model(images) - expected).abs().max() > 1e-2
    losses = tuner.auxiliary_losses(QUALITIES)
    (model(images).sum() + sum(losses.values())).backward()
    with tuner.override_gate(0.0):
        torch.testing.assert_close(model(images), expected, atol=1e-6, rtol=0)


def test_a_model_without_a_named_reference_or_with_two_is_refused(toy):
    with pytest.raises(ValueError, match=r"Pointwise has no module 'trunk'.* it has 'stem', 'mix', 'out'"):
        NullSpaceTuning(["mix"], rank=4, reference=ReferenceTokens("trunk", width=12)).inject(Pointwise())
    with pytest.raises(ValueError, match="router 'layer' and one gate a clip, got router 'shared'"):
        NullSpaceTuning(["mix"], rank=4, reference=ReferenceTokens("stem", 12), router="shared").inject(Pointwise())
    with pytest.raises(ValueError, match="has a reference of its own, got 'head'"):
        NullSpaceTuning(["head"], rank=4, reference=ReferenceTokens("head", 9)).inject(toy.ToyGrounder())


# --- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate_per", ["clip", "frame"])
def test_padding_changes_neither_a_clips_gate_nor_its_output(toy, tuned, gate_per):
    grounder, tuner = tuned(gate_per=gate_per)
    frames, frame_mask, queries = toy.toy_batch()
    frames[1, 3:] = 50.0  # whatever padding holds
    output = toy.flat(grounder(frames, frame_mask, queries))
    together = tuner.diagnostics()
    alone = toy.flat(grounder(frames[1:2, :3], frame_mask[1:2, :3], queries[1:2]))
    torch.testing.assert_close(alone[:, 0], output[:, 1, :3], atol=1e-6, rtol=1e-5)
    for name, value in tuner.diagnostics().items():
        if name.startswith(("gate", "router")):
            torch.testing.assert_close(value, together[name][1:2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3, 4, 48), (3, 5, 2, 48), (2, 5, 48), (15, 48)])
def test_an_input_of_unknown_layout_is_refused(toy, tuned, shape):
    grounder, _ = tuned()
    grounder(*toy.toy_batch())
    message = rf"'decoder.linear2' must lead with the clips' frames \(3, 5\) or memory \(3, 5, 10\), got \({shape[0]}, "
    with pytest.raises(ValueError, match=message):
        grounder.decoder.linear2(torch.zeros(shape))


# --- the life of a model --------------------------------------------------------------------------------------------


def test_a_layer_that_runs_before_the_reference_says_so(toy, tuned):
    grounder, tuner = tuned()
    with pytest.raises(RuntimeError, match="'head' ran before any reference was seen"):
        grounder.head(torch.zeros(3, 5, 16))
    for read in (tuner.diagnostics, lambda: tuner.auxiliary_losses(QUALITIES)):
        with pytest.raises(RuntimeError, match=r"3 of 3 did not, such as 'encoder\.linear2'"):
            read()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_work_alone_and_follow_their_own_reference(toy, tuned, duplicate):
    grounder, tuner = tuned()
    expected = toy.flat(grounder(*toy.toy_batch()))  # leaves tensors with a graph behind, which no copy may meet
    twin, twin_tuner = duplicate((grounder, tuner))
    assert twin.head is twin.alias[0]
    other = toy.flat(twin(*toy.toy_batch(1)))
    assert not torch.equal(other, expected)
    assert torch.equal(toy.flat(twin(*toy.toy_batch())), expected)
    before = tuner.diagnostics()
    twin(*toy.toy_batch(1))
    twin_tuner.auxiliary_losses(QUALITIES)["reg"].backward()
    assert twin.head.unit.row_head.outer.weight.grad is not None
    assert grounder.head.unit.row_head.outer.weight.grad is None
    assert torch.equal(tuner.diagnostics()["gate/head"], before["gate/head"])


@pytest.mark.parametrize("gate", ["soft", "oracle"])
def test_gradient_checkpointing_changes_no_gradient_and_counts_no_call_twice(toy, tuned, gate):
    gradients = []
    for checkpointing in (None, False):
        grounder, tuner = tuned(grounder=toy.ToyGrounder(checkpointing=checkpointing), gate=gate)
        with tuner.conditioned_on(QUALITIES):  # layers run again in the backward pass, when this is over
            output = toy.flat(grounder(*toy.toy_batch()))
        losses = tuner.auxiliary_losses(QUALITIES)
        (output.square().sum() + sum(losses.values())).backward()
        assert len(tuner._state.read(["encoder.linear2"], close=False)["encoder.linear2"]) == 1
        gradients.append([parameter.grad for parameter in tuner.trainable_parameters(grounder)])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_every_adapter_parameter_takes_part_in_each_step_of_a_distributed_run(toy, tuned, tmp_path):
    grounder, tuner = tuned()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = nn.parallel.DistributedDataParallel(grounder)
        # A parameter that got no gradient in one step, be it for want of LQ clips, would stop DDP in the next.
        for qualities in (torch.zeros(3), torch.ones(3), QUALITIES):
            output = toy.flat(parallel(*toy.toy_batch()))
            losses = tuner.auxiliary_losses(qualities)
            (output.square().sum() + losses["router"] + losses["reg"]).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in tuner.trainable_parameters(grounder))


def test_a_checkpoint_that_drops_the_graph_is_refused(toy, tuned):
    grounder, tuner = tuned(grounder=toy.ToyGrounder(checkpointing=True))
    grounder(*toy.toy_batch())
    with pytest.raises(RuntimeError, match=r"'encoder.linear2' kept no graph.*use_reentrant=False"):
        tuner.auxiliary_losses(QUALITIES)
    with torch.no_grad():
        assert tuner.auxiliary_losses(QUALITIES)["router"] > 0


def test_half_precision_keeps_the_gate_in_single(toy, tuned):
    grounder, tuner = tuned()
    full = toy.flat(grounder(*toy.toy_batch()))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = toy.flat(grounder(*toy.toy_batch()))
        losses = tuner.auxiliary_losses(QUALITIES)
    torch.testing.assert_close(mixed.float(), full, atol=0.1, rtol=0.1)
    logits = tuner._state.read(["head"], close=False)["head"][0].logits
    assert not torch.equal(logits, logits.bfloat16().float())
    assert {value.dtype for value in [*losses.values(), *tuner.diagnostics().values()]} == {torch.float32}
    grounder.bfloat16()
    frames, frame_mask, queries = toy.toy_batch(dtype=torch.bfloat16)
    pure = toy.flat(grounder(frames, frame_mask, queries))
    torch.testing.assert_close(pure.float(), full, atol=0.3, rtol=0.1)
    assert {value.dtype for value in tuner.auxiliary_losses(QUALITIES).values()} == {torch.float32}


def test_a_control_that_draws_its_basis_starts_from_the_other_values_of_nst(toy):
    def values(basis: str) -> list[torch.Tensor]:
        grounder = toy.ToyGrounder()
        NullSpaceTuning(toy.TARGETS, rank=6, basis=basis, null_branch=False).inject(grounder)
        return [parameter for layer in layers_of(grounder) for parameter in layer.unit.parameters()]

    nst = values("svd")
    assert any(parameter.std() > 0 for parameter in nst)
    for basis in ("random", "learned"):
        torch.testing.assert_close(values(basis), nst, rtol=0, atol=0)


def test_initial_values_depend_on_seed_and_name_only(toy):
    def initial(targets: list[str], seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        grounder = toy.ToyGrounder()
        NullSpaceTuning(targets, rank=6, seed=seed).inject(grounder)
        assert torch.equal(torch.get_rng_state(), before)
        return grounder.decoder.linear2.unit.retrieval.attention.query.weight.detach()

    first = initial(["decoder.linear2"], 0, 1)
    assert torch.equal(first, initial(["encoder.linear2", "decoder.linear2"], 0, 2))
    assert not torch.equal(first, initial(["decoder.linear2"], 1, 1))
    grounder = toy.ToyGrounder()
    NullSpaceTuning(["encoder.linear1", "decoder.linear1"], rank=6).inject(grounder)  # of one d_in: the same draws
    queries = [layer.unit.retrieval.attention.query.weight for layer in layers_of(grounder)]
    assert not torch.equal(queries[0], queries[1])


# --- options --------------------------------------------------------------------------------------------------------


def test_report_says_what_was_put_where(toy):
    # encoder.linear2 is 16 x 40, linear1 40 x 16, head 9 x 16.
    report = NullSpaceTuning(["encoder.linear*", "head"], rank=12).inject(toy.ToyGrounder())
    assert [(layer.name, layer.shape, layer.rank, layer.nullity, layer.adapter) for layer in report.layers] == [
        ("encoder.linear1", (40, 16), 16, 0, "row 12, no null branch"),
        ("encoder.linear2", (16, 40), 16, 24, "row 12, null 12"),
        ("head", (9, 16), 9, 7, "row 9, null 7"),
    ]
    assert report.leakage < 1e-12
    lines = str(report).splitlines()
    assert lines[0].startswith(f"NullSpaceTuning: 3 tuned layers, {report.trainable:,} of {report.total:,} parameters")
    assert lines[3].split() == [
        "encoder.linear2",
        "16",
        "x",
        "40",
        "16",
        "24",
        lines[3].split()[6],
        *["row", "12,", "null", "12"],
    ]


def test_null_directions_of_an_approximate_space_are_the_quietest(toy):
    grounder = toy.ToyGrounder()
    weight = grounder.encoder.linear1.weight.detach().double()
    NullSpaceTuning(["encoder.linear1"], rank=2, rank_rule="relative", rank_threshold=0.9).inject(grounder)
    leak = torch.linalg.matrix_norm(weight @ grounder.encoder.linear1.dual_space.null_basis.double(), ord=2)
    assert leak.item() == pytest.approx(split_dual_space(weight).singular_values[-2].item(), rel=1e-5)


@pytest.mark.parametrize(("rank", "verb"), [(0, "raise"), (-3, "raise"), (17, "lower"), (64, "lower")])
def test_a_rank_that_no_layer_can_hold_is_refused(toy, rank, verb):
    grounder = toy.ToyGrounder()
    with pytest.raises(
        ValueError, match=rf"in \[1, 16\] for 'head' \(16 inputs\), got {rank}; {verb} --model.tuner.init_args.rank"
    ):
        NullSpaceTuning(["head"], rank=rank).inject(grounder)
    assert grounder.head.weight.requires_grad
    assert not layers_of(grounder)


def test_other_nonsense_is_refused_with_its_value(toy):
    with pytest.raises(ValueError, match="width of retrieval 16, got 3; change"):
        NullSpaceTuning(["head"], rank=6, heads=3).inject(toy.ToyGrounder())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        NullSpaceTuning(["head"], hidden=0)
    with pytest.raises(ValueError, match="gate must be one of soft, hard, oracle, open, got 'ajar'"):
        NullSpaceTuning(["head"], gate="ajar")
    silent = toy.ToyGrounder()
    silent.head.weight.data.zero_()
    with pytest.raises(ValueError, match="'head' has rank 0"):
        NullSpaceTuning(["head"], rank=6).inject(silent)
    with pytest.raises(ValueError, match="Linear is no Grounder: name the module"):
        NullSpaceTuning(["head"], rank=6).inject(nn.Linear(2, 2))
    blind = toy.ToyGrounder()
    blind.reference_point = nn.Identity()
    with pytest.raises(ValueError, match="exactly one ReferencePoint in ToyGrounder, got 0"):
        NullSpaceTuning(["head"], rank=6).inject(blind)


def test_a_config_can_name_it_and_its_help_comes_from_the_fields():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    config = {"class_path": "stvg_nst.tuning.NullSpaceTuning", "init_args": {"targets": ["head"], "rank": 8}}
    tuner = parser.instantiate(parser.parse_object({"tuner": config})).tuner
    assert tuner == NullSpaceTuning(targets=["head"], rank=8)
    zero_shot = parser.instantiate(parser.parse_args(["--tuner=stvg_nst.tuning.ZeroShot"])).tuner
    assert type(zero_shot).__name__ == "ZeroShot"


def test_a_part_below_the_normal_numbers_has_its_share_too():
    tiny = torch.tensor([1e-40, 0.0, 3.0])
    assert _share(tiny, torch.tensor([0.0, 0.0, 1.0])).tolist() == [1.0, 0.0, 0.75]
