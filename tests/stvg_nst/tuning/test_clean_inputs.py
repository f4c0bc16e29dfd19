"""The second moments of what clean clips show to a model's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.tuning import LoRA
from stvg_nst.tuning.clean_inputs import measure_clean_inputs


def show(toy, grounder, layers, *seeds):
    return measure_clean_inputs(
        grounder, layers, (toy.toy_batch(seed) for seed in seeds), lambda batch: grounder(*batch)
    )


def test_moments_are_means_over_real_tokens_of_all_batches(toy):
    grounder = toy.pretrained()
    memory, pooled = [], []
    grounder.encoder.linear1.register_forward_pre_hook(lambda module, inputs: memory.append(inputs[0]))
    grounder.head.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    layers = {"encoder.linear1": grounder.encoder.linear1, "head": grounder.head}
    found = show(toy, grounder, layers, 0, 1)

    words = torch.tensor([4, 2, 6])
    mask = torch.cat([torch.ones(3, 4, dtype=torch.bool), torch.arange(6) < words[:, None]], dim=1)
    frames = torch.arange(5) < torch.tensor([5, 3, 5])[:, None]
    real = torch.cat([tokens[frames[..., None] & mask[:, None]] for tokens in memory]).double()
    assert len(real) == 2 * (5 * 8 + 3 * 6 + 5 * 10)
    torch.testing.assert_close(found.moments["encoder.linear1"], real.T @ real / len(real), rtol=1e-12, atol=1e-12)
    # The head is called twice a forward: on both stages' tokens.
    real = torch.cat([tokens[frames] for tokens in pooled]).double()
    assert len(pooled) == 4
    torch.testing.assert_close(found.moments["head"], real.T @ real / len(real), rtol=1e-12, atol=1e-12)


def test_frames_that_pad_a_clip_do_not_count_though_their_tokens_are_called_real(toy):
    grounder = toy.pretrained()
    grounder.reference_point.register_forward_pre_hook(lambda point, inputs: (*inputs[:5], torch.ones_like(inputs[5])))
    memory = []
    grounder.encoder.linear1.register_forward_pre_hook(lambda module, inputs: memory.append(inputs[0]))
    found = show(toy, grounder, {"layer": grounder.encoder.linear1}, 0)
    real = memory[0][torch.arange(5) < torch.tensor([5, 3, 5])[:, None]].flatten(0, 1).double()
    torch.testing.assert_close(found.moments["layer"], real.T @ real / len(real), rtol=1e-12, atol=1e-12)


def test_a_tuned_layer_is_measured_as_the_frozen_one(toy):
    grounder, tuned = toy.pretrained(), toy.ToyGrounder()
    LoRA(["encoder.linear2"], rank=4).inject(tuned)
    expected = show(toy, grounder, {"layer": grounder.encoder.linear2}, 0)
    found = show(toy, tuned, {"layer": tuned.encoder.linear2}, 0)
    assert torch.equal(found.moments["layer"], expected.moments["layer"])


def test_no_hook_is_left_behind(toy):
    grounder = toy.pretrained()
    with pytest.raises(RuntimeError, match="1 of 2 did not, such as 'other'"):
        show(toy, grounder, {"head": grounder.head, "other": nn.Linear(2, 2)}, 0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in grounder.modules())


def test_a_model_that_is_no_grounder_has_no_padding():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten(2), nn.Linear(4, 5)).eval()
    images = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = measure_clean_inputs(model, {"conv": model[0], "linear": model[2]}, images.split(4), model)
    pixels = images.movedim(1, -1).flatten(0, 2).double()
    torch.testing.assert_close(found.moments["conv"], pixels.T @ pixels / 24)
    assert found.clips == 6 and found.moments["linear"].shape == (4, 4)


def test_what_cannot_be_measured_is_refused(toy):
    grounder = toy.pretrained()
    with pytest.raises(ValueError, match="at least one clean clip of the tuning set to calibrate on, got none"):
        show(toy, grounder, {"head": grounder.head})
    with pytest.raises(ValueError, match=r"'pixels' ran ahead of the reference point, .* take it out of"):
        show(toy, grounder, {"pixels": grounder.pixels}, 0)
    grounder.encoder.linear1.register_forward_pre_hook(lambda module, inputs: inputs[0].flatten(0, 1))
    with pytest.raises(ValueError, match=r"one of \(3, 5\), \(3, 5, 10\), \(3, 5, 4\), got \(15, 10, 16\)"):
        show(toy, grounder, {"layer": grounder.encoder.linear1}, 0)
