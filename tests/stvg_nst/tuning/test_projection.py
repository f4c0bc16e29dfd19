"""Steps that clean clips do not notice; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.tuning import NullSpaceProjection
from stvg_nst.tuning.projection import ProjectedLinear

TARGETS = ("encoder.linear2", "head")


def inject(toy, **options):
    grounder, tuner = toy.ToyGrounder(), NullSpaceProjection(TARGETS, **options)
    tuner.inject(grounder)
    tuner.calibrate(grounder, [toy.toy_batch(0), toy.toy_batch(1)], lambda batch: grounder(*batch))
    return grounder, tuner


def layers_of(grounder) -> list[ProjectedLinear]:
    return [module for module in grounder.modules() if isinstance(module, ProjectedLinear)]


def step(toy, grounder, tuner, optimizer, seed: int) -> None:
    tuner.set_training(grounder, True)
    optimizer.zero_grad()
    (toy.flat(grounder(*toy.toy_batch(seed))) - 1).square().mean().backward()
    optimizer.step()
    tuner.after_step(grounder, 1, 1)


def test_a_step_by_hand(toy):
    grounder, tuner = inject(toy, hq_energy=0.9)
    optimizer = torch.optim.SGD(tuner.trainable_parameters(grounder), lr=0.5)
    step(toy, grounder, tuner, optimizer, 5)
    for layer in layers_of(grounder):
        gradient = layer.update.grad
        assert gradient.any() and not torch.equal(gradient, gradient @ layer.space.projection)
        torch.testing.assert_close(layer.update, -0.5 * gradient @ layer.space.projection)


@pytest.mark.parametrize("hq_energy", [0.9, 0.999])
def test_after_many_steps_clean_inputs_still_move_no_further_than_the_share_allows(toy, hq_energy):
    grounder, tuner = inject(toy, hq_energy=hq_energy)
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(grounder), lr=1e-2, weight_decay=0.1)
    for seed in range(50):
        step(toy, grounder, tuner, optimizer, seed + 10)
    shown: list[torch.Tensor] = []
    frozen = toy.pretrained()
    frozen.encoder.linear2.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    frozen(*toy.toy_batch(0)), frozen(*toy.toy_batch(1))
    layer = layers_of(grounder)[0]
    size = torch.linalg.matrix_norm(layer.update, ord=2)
    assert size > 0.1, "nothing was learnt"
    torch.testing.assert_close(layer.update @ layer.space.projection, layer.update, atol=1e-5, rtol=0)

    frames = torch.arange(5) < torch.tensor([5, 3, 5])[:, None]
    words = torch.cat([torch.ones(3, 4).bool(), torch.arange(6) < torch.tensor([4, 2, 6])[:, None]], dim=1)
    clean = torch.cat([tokens[frames[..., None] & words[:, None]] for tokens in shown])
    moved = (clean @ layer.update.T).square().sum()
    assert moved <= 1.001 * (1 - hq_energy) * size**2 * clean.square().sum()
    assert moved < 0.2 * (clean @ torch.randn_like(layer.update).T / layer.update[0].numel() ** 0.5).square().sum()


def test_biases_stay_and_a_merged_layer_answers_alike(toy):
    grounder, tuner = inject(toy)
    step(toy, grounder, tuner, torch.optim.AdamW(tuner.trainable_parameters(grounder), lr=1e-2), 5)
    for layer, base in zip(layers_of(grounder), (toy.pretrained().encoder.linear2, toy.pretrained().head), strict=True):
        x = torch.randn(4, layer.base_layer.in_features)
        merged = layer.merged()
        assert torch.equal(merged(x), layer(x)) and not torch.equal(merged.weight, base.weight)
        assert torch.equal(merged.bias, base.bias) and torch.equal(layer.base_layer.weight, base.weight)


def test_the_report_says_what_is_trained(toy):
    report = NullSpaceProjection(TARGETS).inject(toy.ToyGrounder())
    assert report.trainable == 16 * 40 + 9 * 16
    assert {layer.adapter for layer in report.layers} == {"weight, projected"}


def test_a_layer_without_a_quiet_direction_is_refused_with_what_to_do(toy):
    grounder, tuner = toy.ToyGrounder(), NullSpaceProjection(["encoder.linear1"], hq_energy=1 - 1e-9)
    tuner.inject(grounder)
    with pytest.raises(ValueError, match=r"1 of 1 layers, such as all 16 of 'encoder.linear1'.* lower --model.tuner"):
        tuner.calibrate(grounder, [toy.toy_batch(0)], lambda batch: grounder(*batch))


@pytest.mark.parametrize("options", [{"hq_energy": 1.0}, {"calibration_clips": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*got {next(iter(options.values()))}"):
        NullSpaceProjection(TARGETS, **options)
