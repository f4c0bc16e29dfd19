"""Knowledge-preserving LoRA; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

from stvg_nst.tuning import CorDA
from stvg_nst.tuning.corda import CordaLinear


def calibrated(toy, **options):
    grounder, tuner = toy.ToyGrounder(), CorDA(["encoder.linear2", "head"], **{"rank": 6} | options)
    tuner.inject(grounder)
    tuner.calibrate(grounder, [toy.toy_batch(0), toy.toy_batch(1)], lambda batch: grounder(*batch))
    return grounder, tuner


def product(layer: nn.Module) -> torch.Tensor:
    """scale B A, of our layer or of PEFT's."""
    lora = getattr(layer, "peft_layer", layer)
    return lora.scaling["default"] * lora.lora_B["default"].weight @ lora.lora_A["default"].weight


def rest(layer: nn.Module) -> torch.Tensor:
    """What is left of the weight beside it."""
    return getattr(layer, "peft_layer", layer).get_base_layer().weight


@pytest.mark.parametrize("alpha", [6.0, 3.0])
def test_the_start_is_that_of_pefts_own_pipeline(alpha):
    def make() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 12)).eval()

    model, tokens = make(), torch.randn(200, 10, generator=torch.Generator().manual_seed(1))
    config = LoraConfig(
        r=6,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=["2"],
        init_lora_weights="corda",
        corda_config=CordaConfig(corda_method="kpm"),
    )
    preprocess_corda(model, config, run_model=lambda: model(tokens))
    theirs = get_peft_model(model, config).base_model.model[2]

    ours, tuner = make(), CorDA(["2"], rank=6, alpha=alpha)
    tuner.inject(ours)
    tuner.calibrate(ours, [tokens], ours)
    for found, expected in ((product(ours[2]), product(theirs)), (rest(ours[2]), rest(theirs))):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert expected.abs().max() > 0.1


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_both_factors_start_with_one_norm_in_any_units(unit):
    torch.manual_seed(0)
    layer = CordaLinear(nn.Linear(16, 12), 6, scale=2.0)
    tokens = torch.randn(50, 16) * torch.linspace(0.01, 1, 16)
    layer.calibrate(unit * (tokens.T @ tokens / 50).double(), 1)
    factors = [getattr(layer.peft_layer, name)["default"].weight for name in ("lora_A", "lora_B")]
    assert factors[0].norm().item() == pytest.approx(factors[1].norm().item(), rel=1e-3)
    torch.testing.assert_close(rest(layer) + product(layer), layer.base_layer.weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_half_precision_is_taken_apart_in_single(dtype, unit):
    torch.manual_seed(0)
    layer = CordaLinear(nn.Linear(16, 12).to(dtype), 6, scale=2.0)
    tokens = unit * torch.randn(50, 16) * torch.linspace(0.01, 1, 16)
    moment = (tokens.T @ tokens / 50).double()
    layer.calibrate(moment, 1)
    assert {tensor.dtype for tensor in (product(layer), rest(layer))} == {dtype}
    weight, single = layer.base_layer.weight, CordaLinear(nn.Linear(16, 12), 6, scale=2.0)
    single.base_layer.weight.data.copy_(weight)
    single.calibrate(moment, 1)
    rounding = 2 * torch.finfo(dtype).eps
    torch.testing.assert_close(product(layer).float(), product(single), atol=rounding, rtol=0)
    torch.testing.assert_close(rest(layer) + product(layer), weight, atol=rounding, rtol=0)


@pytest.mark.parametrize(("weight", "energy"), [(0.0, "0"), (float("inf"), "nan")])
def test_inputs_that_say_nothing_are_refused(toy, weight, energy):
    grounder, tuner = toy.ToyGrounder(), CorDA(["encoder.linear2"], rank=6)
    tuner.inject(grounder)
    for parameter in grounder.encoder.linear1.parameters():
        parameter.data.fill_(weight)
    with pytest.raises(ValueError, match=rf"to 'encoder\.linear2', got a mean square of {energy}; take it out of"):
        tuner.calibrate(grounder, [toy.toy_batch(0)], lambda batch: grounder(*batch))
    assert not tuner.is_calibrated(grounder)


def test_what_is_trained_is_what_clean_clips_use_least(toy):
    grounder, _ = calibrated(toy)
    layer = grounder.encoder.linear2
    shown: list[torch.Tensor] = []
    frozen = toy.pretrained()
    frozen.encoder.linear2.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    frozen(*toy.toy_batch(0)), frozen(*toy.toy_batch(1))
    clean = torch.cat(shown).flatten(0, -2)
    part, whole = clean @ product(layer).T, clean @ layer.base_layer.weight.T
    assert 0 < part.square().sum() < 0.1 * whole.square().sum()
    assert torch.linalg.matrix_rank(rest(layer), rtol=1e-4) == 16 - 6
    torch.testing.assert_close(rest(layer) + product(layer), layer.base_layer.weight, atol=1e-5, rtol=0)


def test_the_frozen_weight_itself_stays(toy):
    grounder, _ = calibrated(toy)
    for layer, base in (
        (grounder.encoder.linear2, toy.pretrained().encoder.linear2),
        (grounder.head, toy.pretrained().head),
    ):
        assert torch.equal(layer.base_layer.weight, base.weight)
        assert not torch.equal(rest(layer), base.weight)
        assert layer.peft_layer.get_base_layer().bias is layer.base_layer.bias


def test_calibration_starts_from_the_frozen_weight_however_often_it_is_run(toy):
    grounder, tuner = calibrated(toy)
    once = rest(grounder.head).clone(), product(grounder.head).clone()
    tuner.calibrate(grounder, [toy.toy_batch(0), toy.toy_batch(1)], lambda batch: grounder(*batch))
    torch.testing.assert_close((rest(grounder.head), product(grounder.head)), once, atol=1e-4, rtol=0)


def test_a_merged_layer_answers_alike(toy):
    grounder, _ = calibrated(toy, alpha=3.0)
    layer = grounder.encoder.linear2
    layer.peft_layer.lora_A["default"].weight.data.mul_(3)
    x = torch.randn(4, 40)
    merged = layer.merged()
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), layer(x), atol=1e-5, rtol=1e-5)
    assert (merged(x) - layer.base_layer(x)).abs().max() > 1e-3


def test_dropout_would_take_the_preserved_function_apart():
    with pytest.raises(ValueError, match=r"got dropout 0.1; leave out --model.tuner.init_args.dropout"):
        CorDA(["head"], dropout=0.1)
