"""Null-space tuning whose row branch reads the HQ null space of each layer's input."""

from __future__ import annotations

import copy

import pytest
import torch

from stvg_nst.tuning.adapter import adapter_state
from stvg_nst.tuning.nst.unit import Retrieval

QUALITIES = torch.tensor([0, 1, 1])


def calibrate(toy, grounder, tuner, *seeds: int) -> None:
    tuner.calibrate(grounder, [toy.toy_batch(seed) for seed in seeds], lambda batch: grounder(*batch))


def open_gate(toy, grounder, tuner, seed: int) -> torch.Tensor:
    with torch.no_grad(), tuner.override_gate(1.0):
        return toy.flat(grounder(*toy.toy_batch(seed)))


@pytest.fixture
def calibrated(toy, tuned):
    """A tuned toy with random heads whose HQ null spaces are those of the first two toy batches."""

    def make(**options):
        grounder, tuner = tuned(row_input="hq_null", **options)
        calibrate(toy, grounder, tuner, 0, 1)
        return grounder, tuner

    return make


def test_the_coefficients_of_nothing_are_nothing_whatever_was_learnt(toy, calibrated):
    grounder, tuner = calibrated(hq_energy=0.9)
    toy.train(grounder, tuner)
    for layer in toy.layers_of(grounder):
        head = layer.unit.row_head
        assert head.outer.weight.grad.any() and head.inner.weight.grad.any()
        directions = torch.linalg.eigh(head.space.projection.double()).eigenvectors
        quiet = round(head.space.projection.trace().item())
        outside = directions[:, : len(directions) - quiet].T.float()
        assert len(outside) and head(torch.randn(3, len(outside)) @ outside).abs().max() < 1e-5
        assert not head(torch.zeros(2, len(directions))).any()


def test_an_open_gate_does_little_to_what_clean_clips_look_like(toy, tuned, calibrated):
    # Batch 0 is one that the spaces were measured on. The stranger's frames are of another kind.
    energies = {}
    for row_input in ("shared", "hq_null"):
        make = calibrated if row_input == "hq_null" else tuned
        grounder, tuner = make(targets=["encoder.linear2"], **({"hq_energy": 0.99} if row_input == "hq_null" else {}))
        frozen = toy.flat(toy.pretrained()(*toy.toy_batch(0)))
        energies[row_input] = (open_gate(toy, grounder, tuner, 0) - frozen).square().mean()
    assert 0 < energies["hq_null"] < 0.1 * energies["shared"]


def test_the_spaces_are_those_of_the_frozen_model(toy, tuned):
    grounder, tuner = tuned(row_input="hq_null", hq_energy=0.9)
    plain, plain_tuner = tuned(row_input="hq_null", hq_energy=0.9, scale=0.0)
    # Under an open gate random heads change what deeper layers are shown.
    with tuner.override_gate(1.0):
        calibrate(toy, grounder, tuner, 0)
        calibrate(toy, grounder, tuner, 0)
    calibrate(toy, plain, plain_tuner, 0)
    for ours, theirs in zip(toy.layers_of(grounder), toy.layers_of(plain), strict=True):
        torch.testing.assert_close(ours.unit.row_head.space.projection, theirs.unit.row_head.space.projection)


def test_nothing_is_looked_up_where_nothing_reads_it(toy, calibrated):
    def retrievals(**options):
        grounder, _ = calibrated(**options)
        return sorted(name for name, module in grounder.named_modules() if isinstance(module, Retrieval))

    assert len(retrievals()) == 3
    # Of the shared router only.
    assert retrievals(router="shared", null_branch=False) == ["reference_point.router.retrieval"]
    grounder, _ = calibrated(coefficients_from="input", router="shared", null_branch=False)
    assert all(layer.unit.project is None for layer in toy.layers_of(grounder))


def test_every_parameter_gets_a_gradient_without_a_null_branch(toy, calibrated):
    grounder, tuner = calibrated(router="shared", null_branch=False)
    tuner.set_training(grounder, True)
    loss = toy.flat(grounder(*toy.toy_batch())).square().mean() + sum(tuner.auxiliary_losses(QUALITIES).values())
    loss.backward()
    assert all(parameter.grad is not None for parameter in tuner.trainable_parameters(grounder))


@pytest.mark.parametrize(
    "options",
    [
        {"router": "shared"},
        {"router": "shared", "rank": None, "hidden": 2},
        {"coefficients_from": "input"},
        {"router": "shared", "targets": ["encoder.linear1"], "rank_rule": "relative", "rank_threshold": 0.4},
    ],
    ids=["exact", "images in the heads", "own router", "leaking"],
)
def test_folding_changes_no_answer(toy, calibrated, options):
    grounder, tuner = calibrated(hq_energy=0.9, **options)
    expected = toy.flat(grounder(*toy.toy_batch(5)))
    folded = copy.deepcopy(grounder)
    tuner_of_copy = copy.deepcopy(tuner)
    tuner_of_copy.fold(folded)
    torch.testing.assert_close(toy.flat(folded(*toy.toy_batch(5))), expected, atol=1e-5, rtol=1e-5)
    if options == {"router": "shared"}:
        names = [name for name, module in folded.named_modules() if isinstance(module, Retrieval)]
        assert names == ["reference_point.router.retrieval"]
        assert not any("projection" in name for name in adapter_state(folded))
