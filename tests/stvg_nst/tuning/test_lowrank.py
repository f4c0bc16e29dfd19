"""What all low-rank baselines have in common; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from jsonargparse import ArgumentParser

from stvg_nst.tuning import AdaLoRA, DoRA, FlyLoRA, LoRA, NullSpaceTuning, TunedLinear, Tuner, adapter_state

METHODS = [LoRA, DoRA, AdaLoRA, FlyLoRA]
TARGETS = ("encoder.linear2", "head")  # 16 x 40 and 9 x 16


@pytest.mark.parametrize(
    ("tuner", "adapters", "trainable"),
    [
        (LoRA(TARGETS, rank=12), ["rank 12", "rank 9 (capped)"], 12 * 56 + 9 * 25),
        (DoRA(TARGETS, rank=12), ["rank 12, magnitudes", "rank 9 (capped), magnitudes"], 12 * 56 + 9 * 25 + 25),
        (AdaLoRA(TARGETS, rank=10), ["rank 15 before pruning", "rank 9 (capped) before pruning"], 15 * 57 + 9 * 26),
        (AdaLoRA(TARGETS, rank=4, initial_rank=8), ["rank 8 before pruning"] * 2, 8 * 57 + 8 * 26),
        (
            FlyLoRA(TARGETS, rank=12, active_share=1 / 3),
            ["rank 12, 4 active", "rank 9 (capped), 3 active"],
            12 * 16 + 9 * 9,
        ),
    ],
)
def test_ranks_are_capped_by_the_layer_and_the_report_says_so(toy, tuner, adapters, trainable):
    report = tuner.inject(toy.ToyGrounder())
    assert [(layer.name, layer.shape, layer.adapter) for layer in report.layers] == [
        ("encoder.linear2", (16, 40), adapters[0]),
        ("head", (9, 16), adapters[1]),
    ]
    assert [(layer.rank, layer.nullity) for layer in report.layers] == [(16, 24), (9, 7)]
    assert report.trainable == trainable
    assert str(report).splitlines()[-1].endswith(adapters[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("rank", "verb"), [(0, "raise"), (-3, "raise"), (17, "lower"), (64, "lower")])
def test_a_rank_that_no_layer_can_hold_is_refused(toy, method, rank, verb):
    grounder = toy.ToyGrounder()
    with pytest.raises(
        ValueError, match=rf"rank must lie in \[1, 16\].* of 2 target .*got {rank}; {verb} --model.tuner"
    ):
        method(TARGETS, rank=rank).inject(grounder)
    assert all(parameter.requires_grad for parameter in grounder.parameters())
    assert not any(isinstance(module, TunedLinear) for module in grounder.modules())


@pytest.mark.parametrize("method", METHODS)
def test_initial_values_depend_on_seed_and_name_only(toy, method):
    def initial(targets: list[str], seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        grounder = toy.ToyGrounder()
        method(targets, rank=6, seed=seed).inject(grounder)
        assert torch.equal(torch.get_rng_state(), before)
        state = adapter_state(grounder)
        return torch.cat([tensor.flatten() for name, tensor in state.items() if name.startswith("decoder.linear2")])

    first = initial(["decoder.linear2"], 0, 1)
    assert torch.equal(first, initial(["encoder.linear2", "decoder.linear2"], 0, 2))
    assert not torch.equal(first, initial(["decoder.linear2"], 1, 1))
    grounder = toy.ToyGrounder()
    method(["encoder.linear1", "decoder.linear1"], rank=10).inject(grounder)  # of one d_in: no common draws
    state = adapter_state(grounder)
    drawn = [name for name in state if name.startswith("encoder") and ("lora_A" in name or "projection" in name)]
    assert len(drawn) == 1
    assert not torch.equal(state[drawn[0]], state[drawn[0].replace("encoder", "decoder")])


@pytest.mark.parametrize("method", METHODS)
def test_a_failed_injection_leaves_the_model_as_it_was(toy, method):
    grounder = toy.ToyGrounder()
    with pytest.raises(ValueError, match="target 'nothing' matches no module"):
        method(["head", "nothing"], rank=4).inject(grounder)
    assert all(parameter.requires_grad for parameter in grounder.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_options_out_of_range_are_refused_with_their_value(method):
    with pytest.raises(ValueError, match=r"alpha must be positive, got 0; raise --model.tuner.init_args.alpha"):
        method(["head"], alpha=0)
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=rf"dropout is a share, in \[0, 1\), got {share}"):
            method(["head"], dropout=share)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_acts_in_training_and_on_the_update_only(toy, method):
    grounder = toy.ToyGrounder()
    tuner = method(["decoder.linear2"], rank=10, dropout=0.5)
    tuner.inject(grounder)
    tuner.set_training(grounder, True)
    layer = grounder.decoder.linear2
    x = torch.randn(3, 5, 48)
    torch.testing.assert_close(layer(x), layer.base_layer(x))
    for parameter in tuner.trainable_parameters(grounder):
        parameter.data.normal_()
    assert not torch.equal(layer(x), layer(x))
    tuner.set_training(grounder, False)
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("method", METHODS)
def test_a_config_can_name_it_in_place_of_another(method):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    config = {"class_path": f"stvg_nst.tuning.{method.__name__}", "init_args": {"targets": ["head"], "alpha": 8.0}}
    assert parser.instantiate(parser.parse_object({"tuner": config})).tuner == method(["head"], alpha=8.0)
    other = ["--tuner=stvg_nst.tuning.NullSpaceTuning", '--tuner.targets=["head"]', f"--tuner={config['class_path']}"]
    assert type(parser.instantiate(parser.parse_args(other)).tuner) is method
    assert type(parser.instantiate(parser.parse_args([*other, other[0]])).tuner) is NullSpaceTuning
