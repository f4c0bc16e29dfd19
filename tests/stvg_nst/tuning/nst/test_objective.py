"""What null-space tuning adds to the loss, eqs. (6) and (7), and what it reads of a forward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.objective import _share, residual_energies, router_loss, subspace_regulariser
from stvg_nst.tuning.nst.reference import CallRecord
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization

QUALITIES = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("basis", ["svd", "learned"])
def test_energies_are_the_squared_norms_of_the_parts(basis, coefficients):
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    space = DualSpaceReparameterization(weight, split_dual_space(weight), rank=2, basis=basis)
    with torch.no_grad():  # learned directions need not stay orthonormal
        for directions in (space.row_basis, space.null_basis) if basis == "learned" else ():
            directions.mul_(torch.tensor([2.0, 0.5])).add_(0.1)
    row, null = torch.randn(4, 5, 2), torch.randn(4, 5, 2)
    row_energy, null_energy = space.energies(coefficients(row), coefficients(null))
    torch.testing.assert_close(row_energy, (row @ space.row_basis.T).square().sum(-1))
    torch.testing.assert_close(null_energy, (null @ space.null_basis.T).square().sum(-1))


def test_eq_6_and_7_by_hand(coefficients):
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    call = CallRecord(
        row=coefficients(torch.tensor([[[1.0, 2.0], [9.0, 9.0]], [[3.0, 0.0], [0.0, 1.0]]])),  # 5, (padding), 9, 1
        null=coefficients(torch.tensor([[[2.0], [9.0]], [[0.0], [4.0]]])),  # 4, (padding), 0, 16
        logits=torch.tensor([0.0, math.log(3.0)]),  # g = 1 / 2 and 3 / 4
        gate=torch.tensor([0.5, 0.75]),
        mask=torch.tensor([[True, False], [True, True]]),
        space=DualSpaceReparameterization(weight, split_dual_space(weight), rank=2),
        weight=weight,
    )
    labels = torch.tensor([0.0, 1.0])
    assert router_loss(call.logits, labels, call.mask).item() == pytest.approx((-math.log(0.5) - math.log(0.75)) / 2)
    high, low = torch.tensor([0]), torch.tensor([1])
    assert subspace_regulariser(call, high, low).item() == pytest.approx((5 + 0 + 16) / 3)
    assert subspace_regulariser(call, low, high).item() == pytest.approx((9 + 1 + 4) / 3)
    nobody = torch.tensor([], dtype=torch.int64)
    assert subspace_regulariser(call, torch.tensor([0, 1]), nobody).item() == pytest.approx((5 + 9 + 1) / 3)
    rowless = call._replace(null=None)
    assert subspace_regulariser(rowless, high, low).item() == pytest.approx(5 / 3)
    energies = {part: value.item() for part, value in residual_energies(call).items()}
    assert energies["row"] == pytest.approx((5 + 9 + 1) / 3)
    assert energies["null"] == pytest.approx((4 + 0 + 16) / 3)
    assert energies["gated_row"] == pytest.approx((5 / 4 + 9 * 9 / 16 + 9 / 16) / 3)
    assert energies["gated_null"] == pytest.approx((4 / 4 + 0 + 16 / 16) / 3)
    assert residual_energies(rowless)["gated_null"].item() == 0
    skipped = call._replace(row=call.row.of_clips(low), null=call.null.of_clips(low), clips=low)
    assert residual_energies(skipped)["gated_row"].item() == pytest.approx((9 * 9 / 16 + 9 / 16) / 3)

    framewise = torch.tensor([[0.0, 99.0], [0.0, math.log(3.0)]])
    expected = (-math.log(0.5) + (-math.log(0.5) - math.log(0.75)) / 2) / 2
    assert router_loss(framewise, labels, call.mask).item() == pytest.approx(expected)


@pytest.mark.parametrize("clips", [None, torch.tensor([0])], ids=["all", "open"])
def test_what_padding_holds_is_in_no_energy(clips, coefficients):
    weight = torch.tensor([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = [
        residual_energies(
            CallRecord(
                row=coefficients(torch.tensor([[[1.0, 2.0], [padding, 0.0]]])),
                null=coefficients(torch.tensor([[[2.0], [padding]]])),
                logits=None,
                gate=torch.tensor([0.5]),
                mask=torch.tensor([[True, False]]),
                space=DualSpaceReparameterization(weight, split_dual_space(weight), rank=2),
                weight=weight,
                clips=clips,
            )
        )
        for padding in (0.0, math.inf)
    ]
    assert found[0] == found[1] and found[0]["row"] == pytest.approx(5)


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
    labels, clips = QUALITIES.float(), (torch.tensor([0]), torch.tensor([1, 2]))
    functions = {
        "router": lambda call: router_loss(call.logits, labels, call.frame_mask),
        "reg": lambda call: subspace_regulariser(call, *clips),
    }
    for name, function in functions.items():
        per_layer = [sum(function(call) for call in calls) / len(calls) for calls in records.values()]
        torch.testing.assert_close(losses[name], sum(per_layer) / 3)
    assert set(tuner.loss_weights) == set(losses)
    assert NullSpaceTuning(["a"], lambda_router=0.7, lambda_reg=0.2).loss_weights == {"router": 0.7, "reg": 0.2}


def test_the_task_gives_the_null_branch_no_gradient_and_eq_7_does(toy, tuned):
    grounder, tuner = tuned()
    output = toy.flat(grounder(*toy.toy_batch()))
    heads = [layer.unit.null_head.outer.weight for layer in toy.layers_of(grounder)]
    assert torch.autograd.grad(output.square().sum(), heads, retain_graph=True, allow_unused=True) == (None,) * 3
    for gradient in torch.autograd.grad(tuner.auxiliary_losses(QUALITIES)["reg"], heads):
        assert gradient.abs().max() > 0

    grounder, _ = tuned(forward_mode="literal")
    heads = [layer.unit.null_head.outer.weight for layer in toy.layers_of(grounder)]
    rows = [layer.unit.row_head.outer.weight for layer in toy.layers_of(grounder)]
    loss = toy.flat(grounder(*toy.toy_batch())).square().sum()
    for null, row in zip(
        torch.autograd.grad(loss, heads, retain_graph=True), torch.autograd.grad(loss, rows), strict=True
    ):
        assert null.norm() < 1e-5 * row.norm()


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


@pytest.mark.parametrize("gates", [[0, 0, 0], [0, 1, 1]])
def test_a_forward_that_skipped_clips_has_no_losses(toy, tuned, gates):
    grounder, tuner = tuned(gate="hard", router="shared")
    with tuner.override_gate(torch.tensor(gates, dtype=torch.float32)):
        grounder(*toy.toy_batch())
        with pytest.raises(RuntimeError, match=r"skipped clips in the last forward of 'encoder.linear2'.*set_training"):
            tuner.auxiliary_losses(QUALITIES)
        tuner.set_training(grounder, True)
        grounder(*toy.toy_batch())
    assert tuner.auxiliary_losses(QUALITIES)["reg"] > 0


def test_a_part_below_the_normal_numbers_has_its_share_too():
    tiny = torch.tensor([1e-40, 0.0, 3.0])
    assert _share(tiny, torch.tensor([0.0, 0.0, 1.0])).tolist() == [1.0, 0.0, 0.75]


@pytest.mark.parametrize("router", ["shared", "layer"])
def test_a_verdict_is_what_the_routers_say_whatever_the_gates_are(toy, tuned, router):
    grounder, tuner = tuned(router=router, gate="hard")
    grounder(*toy.toy_batch())
    said = torch.stack([value for name, value in tuner.diagnostics().items() if name.startswith("router/")])
    torch.testing.assert_close(tuner.verdicts(), said.mean(0))
    assert ((tuner.verdicts() > 0) & (tuner.verdicts() < 1)).all()
    if router == "shared":
        with tuner.override_gate(1.0):
            grounder(*toy.toy_batch())
        torch.testing.assert_close(tuner.verdicts(), said.mean(0))


def test_a_control_without_a_router_gives_no_verdict(toy, tuned):
    grounder, tuner = tuned(gate="open")
    grounder(*toy.toy_batch())
    assert tuner.verdicts() is None
