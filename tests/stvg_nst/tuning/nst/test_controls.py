"""The controls: other gates, other directions, no null space."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from stvg_nst.tuning import AdapterMismatchError, GatedAdapter, load_adapter
from stvg_nst.tuning.adapter import save_adapter
from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.objective import null_leak

QUALITIES = torch.tensor([0, 1, 1])


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
        toy.train(grounder, tuner, steps=60)
        grounder(*toy.toy_batch())
        records = tuner._state.read(["encoder.linear2"], close=False)["encoder.linear2"]
        leaks[weight] = null_leak(records[0]).item()
    assert leaks[10.0] < 0.2 * leaks[0.0]


def test_a_control_that_draws_its_basis_starts_from_the_other_values_of_nst(toy):
    def values(basis: str) -> list[torch.Tensor]:
        grounder = toy.ToyGrounder()
        NullSpaceTuning(toy.TARGETS, rank=6, basis=basis, null_branch=False).inject(grounder)
        return [parameter for layer in toy.layers_of(grounder) for parameter in layer.unit.parameters()]

    nst = values("svd")
    assert any(parameter.std() > 0 for parameter in nst)
    for basis in ("random", "learned"):
        torch.testing.assert_close(values(basis), nst, rtol=0, atol=0)


def test_a_gated_adapter_is_null_space_tuning_along_trained_directions_of_one_branch(toy):
    outputs = []
    for tuner in (
        GatedAdapter(toy.TARGETS, rank=6, seed=0),
        NullSpaceTuning(toy.TARGETS, rank=6, seed=0, basis="learned", null_branch=False),
    ):
        grounder = toy.ToyGrounder()
        report = tuner.inject(grounder)
        assert report.method == type(tuner).__name__
        toy.train(grounder, tuner)
        outputs.append(toy.flat(grounder(*toy.toy_batch())))
    assert torch.equal(*outputs)
    with pytest.raises(TypeError, match="null_branch"):
        GatedAdapter(toy.TARGETS, null_branch=True)


def test_an_adapter_that_names_the_general_method_fits_the_control_and_not_the_reverse(toy, tmp_path):
    general = partial(NullSpaceTuning, toy.TARGETS, rank=6, basis="learned", null_branch=False)
    control = partial(GatedAdapter, toy.TARGETS, rank=6)
    outputs = []
    for make, load in ((general, control), (control, control)):
        grounder, tuner = toy.ToyGrounder(), make(seed=0)
        tuner.inject(grounder)
        toy.train(grounder, tuner)
        save_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
        other, loading = toy.ToyGrounder(), load(seed=1)
        loading.inject(other)
        load_adapter(tmp_path / "adapter.safetensors", other, loading)
        outputs += [toy.flat(model(*toy.toy_batch())) for model in (grounder, other)]
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    other, tuner = toy.ToyGrounder(), general()
    tuner.inject(other)
    with pytest.raises(AdapterMismatchError, match=r"made by .*GatedAdapter, got .*NullSpaceTuning"):
        load_adapter(tmp_path / "adapter.safetensors", other, tuner)
