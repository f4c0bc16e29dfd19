"""The switch: two models in one, of which each clip sees one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.tuning import FullFineTuning, LoRA, Switch
from stvg_nst.tuning.switch import SwitchedLayer
from tests.stvg_nst.models.drift import miniature

SCOPE = ("encoder", "decoder", "head")
QUALITIES = torch.tensor([0, 1, 1])


def switched(toy, **options) -> tuple[nn.Module, Switch]:
    """A toy whose copy has moved away from what is frozen."""
    grounder, tuner = toy.ToyGrounder(), Switch(SCOPE, seed=0, **options)
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in copies(grounder).values():
            for parameter in layer.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return grounder, tuner


def copies(grounder: nn.Module) -> dict[str, nn.Module]:
    return {name: layer.tuned for name, layer in grounder.named_modules() if isinstance(layer, SwitchedLayer)}


def fine_tuned(toy, grounder: nn.Module) -> nn.Module:
    """A fully fine-tuned toy with the weights of the switch's copy."""
    model = toy.ToyGrounder()
    FullFineTuning(SCOPE).inject(model)
    for name, layer in copies(grounder).items():
        model.get_submodule(name).load_state_dict(layer.state_dict())
    return model


def gradients(layers: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}": p.grad for name, layer in layers.items() for key, p in layer.named_parameters()}


def test_it_copies_what_full_fine_tuning_trains_and_adds_a_router(toy):
    grounder, plain = toy.ToyGrounder(), toy.ToyGrounder()
    report, full = Switch(SCOPE).inject(grounder), FullFineTuning(SCOPE).inject(plain)
    router = sum(parameter.numel() for parameter in grounder.reference_point.parameters())
    assert report.trainable == full.trainable + router
    assert report.total == full.total + full.trainable + router
    assert report.parts == ("a copy of encoder.norm", "a copy of decoder.norm")
    linear = ["encoder.linear1", "encoder.linear2", "decoder.linear1", "decoder.linear2", "head"]
    assert [layer.name for layer in report.layers] == linear


def test_a_clip_goes_through_the_frozen_model_or_through_the_tuned_one(toy):
    grounder, tuner = switched(toy)
    frozen, tuned = (toy.flat(model(*toy.toy_batch())) for model in (toy.pretrained(), fine_tuned(toy, grounder)))
    assert (tuned - frozen).abs().amax(dim=(0, 2, 3)).min() > 0.05
    with tuner.override_gate(torch.tensor([0.0, 1.0, 0.0])):
        output = toy.flat(grounder(*toy.toy_batch()))
    assert torch.equal(output[:, [0, 2]], frozen[:, [0, 2]])
    torch.testing.assert_close(output[:, 1], tuned[:, 1], rtol=1e-5, atol=1e-6)
    with tuner.override_gate(1.0):
        torch.testing.assert_close(toy.flat(grounder(*toy.toy_batch())), tuned, rtol=0, atol=0)


@pytest.mark.parametrize("tuned_on", ["low", "both"])
def test_the_copy_learns_as_full_fine_tuning_does_from_the_clips_it_is_tuned_on(toy, tuned_on):
    grounder, tuner = switched(toy, tuned_on=tuned_on)
    model = fine_tuned(toy, grounder)
    tuner.set_training(grounder, True)
    with tuner.conditioned_on(QUALITIES):
        toy.flat(grounder(*toy.toy_batch())).square().sum().backward()
    seen = slice(1, 3) if tuned_on == "low" else slice(0, 3)
    toy.flat(model(*toy.toy_batch()))[:, seen].square().sum().backward()
    expected = gradients({name: model.get_submodule(name) for name in copies(grounder)})
    found = gradients(copies(grounder))
    assert found.keys() == expected.keys() and all(gradient.any() for gradient in expected.values())
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4, msg=name)


def test_what_it_cannot_copy_is_refused_by_name(toy):
    with pytest.raises(ValueError, match=r"linear layers and layer norms, got Embedding at 'words'; leave it out of"):
        Switch(["encoder", "words"]).inject(toy.ToyGrounder())
    with pytest.raises(ValueError, match="got BatchNorm1d at 'statistics'"):
        Switch(["statistics"]).inject(toy.ToyGrounder())
    with pytest.raises(ValueError, match=r"scope 'encodr' matches no module; the model's parts are 'pixels', "):
        Switch(["encodr"]).inject(toy.ToyGrounder())


def test_what_lies_ahead_of_the_router_cannot_be_switched(toy):
    grounder = toy.ReadingToy()
    tuner = Switch(["reading"])
    tuner.inject(grounder)
    tuner.set_training(grounder, True)
    with tuner.conditioned_on(QUALITIES), pytest.raises(ValueError, match="'reading' runs ahead of the router"):
        grounder(*toy.toy_batch())


def test_padding_and_other_clips_do_not_change_a_clip(toy):
    grounder, tuner = switched(toy)
    frames, mask, queries = toy.toy_batch()
    with torch.no_grad(), tuner.override_gate(torch.tensor([0.0, 1.0, 1.0])):
        together = toy.flat(grounder(frames, mask, queries))
    with torch.no_grad(), tuner.override_gate(1.0):
        alone = toy.flat(grounder(frames[1:2, :3], mask[1:2, :3], queries[1:2]))
    torch.testing.assert_close(together[:, 1:2, :3], alone, rtol=1e-5, atol=1e-6)


def test_the_miniature_is_switched_where_it_is_fully_fine_tuned():
    """Every layer with weights behind the reference is of a kind that can be copied."""
    scope = ("encoder", "time_decoder", "box_decoder", "*_head")
    grounders = [miniature() for _ in range(3)]
    switch, full = Switch(scope).inject(grounders[0]), FullFineTuning(scope).inject(grounders[1])
    lora = LoRA(["encoder.layers.*.ffn.linear2"], rank=4).inject(grounders[2])
    router = sum(parameter.numel() for parameter in grounders[0].reference_point.parameters())
    assert switch.trainable == full.trainable + router
    assert {layer.name for layer in lora.layers} < {layer.name for layer in switch.layers}
