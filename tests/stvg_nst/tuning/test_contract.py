"""What every tuner must fulfil; a new method joins by one line in TUNERS."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from stvg_nst.tuning import NullSpaceTuning, TunedLinear, Tuner, ZeroShot

TARGETS = ("encoder.linear2", "decoder.linear2", "head")
TUNERS = {
    "zero_shot": ZeroShot,
    "nst": lambda: NullSpaceTuning(TARGETS, rank=6),
    "nst_hard": lambda: NullSpaceTuning(TARGETS, rank=6, gate="hard"),
    "nst_frame": lambda: NullSpaceTuning(TARGETS, rank=6, gate_per="frame", coefficients_from="reference_and_gap"),
    "nst_leaking": lambda: NullSpaceTuning(
        (*TARGETS, "encoder.linear1"), rank=6, rank_rule="relative", rank_threshold=0.4
    ),
}


@pytest.fixture(params=TUNERS)
def tuner(request: pytest.FixtureRequest) -> Tuner:
    return TUNERS[request.param]()


def train(toy: ModuleType, grounder: nn.Module, tuner: Tuner) -> None:
    """Three steps as the LightningModule takes them: Lightning puts all in train mode, then the tuner has its say."""
    parameters = tuner.trainable_parameters(grounder)
    optimizer = torch.optim.AdamW(parameters, lr=1e-2) if parameters else None
    for step in range(3):
        grounder.train()
        tuner.set_training(grounder, True)
        loss = toy.flat(grounder(*toy.toy_batch(step))).square().mean()
        for name, term in tuner.auxiliary_losses(torch.tensor([0, 1, 1])).items():
            loss = loss + tuner.loss_weights[name] * term
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def tensors(grounder: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers as copies, under the names they had before injection."""
    return {name.replace(".base_layer", ""): tensor.clone() for name, tensor in grounder.state_dict().items()}


def test_tuning_starts_from_the_pretrained_function(toy, tuner):
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    assert not any(module.training for module in grounder.modules())
    expected = toy.flat(toy.pretrained()(*toy.toy_batch()))
    assert torch.equal(toy.flat(grounder(*toy.toy_batch())), expected)
    tuner.set_training(grounder, True)
    assert torch.equal(toy.flat(grounder(*toy.toy_batch())), expected)


def test_only_what_is_listed_trainable_moves(toy, tuner):
    grounder = toy.ToyGrounder()
    untouched = tensors(grounder)
    tuner.inject(grounder)
    before = tensors(grounder)
    trainable = {name for name, parameter in grounder.named_parameters() if parameter.requires_grad}
    listed = {id(parameter) for parameter in tuner.trainable_parameters(grounder)}
    assert listed == {id(grounder.get_parameter(name)) for name in trainable}
    train(toy, grounder, tuner)
    after = tensors(grounder)

    moved = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    shared = {name.replace("head.", "alias.0.", 1) for name in trainable if name.startswith("head.")}
    assert moved == trainable | shared
    for name, tensor in untouched.items():
        assert after[name].numpy().tobytes() == tensor.numpy().tobytes(), name


def test_frozen_modules_stay_in_eval_mode_and_adapters_follow(toy, tuner):
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    for mode in (True, False, True):
        grounder.train()
        tuner.set_training(grounder, mode)
        adapters = {m for layer in grounder.modules() if isinstance(layer, TunedLinear) for m in layer.modules()}
        adapters -= {layer.base_layer for layer in adapters if isinstance(layer, TunedLinear)}
        for module in grounder.modules():
            assert module.training == (mode and module in adapters)


def test_every_wrapped_layer_is_called_in_train_and_in_eval(toy, tuner):
    grounder = toy.ToyGrounder()
    report = tuner.inject(grounder)
    calls: list[nn.Module] = []
    wrapped = [module for module in grounder.modules() if isinstance(module, TunedLinear)]
    for layer in wrapped:
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    for mode in (True, False):
        tuner.set_training(grounder, mode)
        calls.clear()
        grounder(*toy.toy_batch())
        assert set(calls) == set(wrapped)
    assert [layer.name for layer in report.layers] == [
        name for name, module in grounder.named_modules() if module in wrapped
    ]


def test_a_wrapped_layer_cannot_be_bypassed(toy, tuner):
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    for module in grounder.modules():
        if isinstance(module, TunedLinear):
            assert not hasattr(module, "weight")


def test_the_report_counts_and_weights_match_the_losses(toy, tuner):
    grounder = toy.ToyGrounder()
    bare = sum(parameter.numel() for parameter in grounder.parameters())
    report = tuner.inject(grounder)
    assert report.method == type(tuner).__name__
    assert report.total == bare + report.trainable
    assert report.trainable == sum(parameter.numel() for parameter in grounder.parameters() if parameter.requires_grad)
    assert f"{report.trainable:,} of {report.total:,}" in str(report)
    grounder(*toy.toy_batch())
    losses = tuner.auxiliary_losses(torch.tensor([0, 1, 1]))
    assert set(losses) == set(tuner.loss_weights)
    assert all(loss.ndim == 0 for loss in losses.values())
    for name, value in tuner.diagnostics().items():
        assert not value.requires_grad
        assert value.shape == ((3,) if name.startswith(("gate/", "router/")) else ())


def test_a_tuner_and_a_model_are_used_once(toy, tuner):
    grounder = toy.ToyGrounder()
    report = tuner.inject(grounder)
    with pytest.raises(RuntimeError, match=f"this {type(tuner).__name__} is already injected"):
        tuner.inject(toy.ToyGrounder())
    if report.layers:
        with pytest.raises(RuntimeError, match=r"model without adapters, got one at 'encoder\.linear"):
            ZeroShot().inject(grounder)
