"""Deep visual prompts: trained tokens that the frozen layers attend to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.models.blocks.encoder import EncoderLayer
from stvg_nst.tuning import PromptTuning
from stvg_nst.tuning.prompts import PromptedLayer
from tests.stvg_nst.models.drift import miniature


def layer(count: int = 3) -> PromptedLayer:
    torch.manual_seed(0)
    return PromptedLayer(EncoderLayer(8, 2, 12, 0.1).eval().requires_grad_(False), count)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (2, 3, 5, 8) with positions; the second clip has 4 tokens a frame."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[[True] * 5], [[True] * 4 + [False]]])
    return torch.randn(2, 3, 5, 8, generator=generator), torch.randn(2, 1, 5, 8, generator=generator), mask


@torch.no_grad()
def test_they_stand_in_front_of_the_tokens_and_are_dropped_behind_the_layer():
    prompted, (tokens, positions, mask) = layer(), inputs()
    output = prompted(tokens, positions, mask)
    assert output.shape == tokens.shape
    for clip, frame in ((0, 0), (0, 2), (1, 1)):
        real = mask[clip, 0]
        alone = torch.cat((prompted.prompts, tokens[clip, frame, real]))[None, None]
        placed = torch.cat((torch.zeros(3, 8), positions[clip, 0, real]))[None, None]
        expected = prompted.base_layer(alone, placed, torch.ones(1, 1, len(alone[0, 0]), dtype=torch.bool))
        torch.testing.assert_close(output[clip, frame, real], expected[0, 0, 3:])


def test_the_miniature_gets_prompts_in_every_layer_of_its_encoder_and_of_no_decoder():
    grounder = miniature()
    report = PromptTuning(["encoder"], count=10).inject(grounder)
    assert report.trainable == 2 * 10 * 96
    assert report.parts == tuple(f"10 prompts in front of encoder.layers.{index}" for index in range(2))
    for scope in (["time_decoder"], ["encoder", "box_decoder"]):
        with pytest.raises(ValueError, match=rf"scope '{scope[-1]}' holds no layer .* a decoder has none; choose"):
            PromptTuning(scope).inject(miniature())


def test_only_prompts_learn_and_each_layer_its_own(toy):
    grounder, tuner = toy.ToyGrounder(), PromptTuning(["encoder"], count=2)
    tuner.inject(grounder)
    assert [name for name, p in grounder.named_parameters() if p.requires_grad] == ["encoder.prompts"]
    values = []
    for seed in (0, 0, 1):
        drawn = miniature()
        PromptTuning(["encoder.layers.*"], seed=seed).inject(drawn)
        values.append([layer.prompts for layer in drawn.encoder.layers])
    assert torch.equal(values[0][1], values[1][1]) and not torch.equal(values[0][1], values[2][1])
    assert not torch.equal(values[0][0], values[0][1])
    assert values[0][0].norm(dim=-1).mean().item() == pytest.approx(1, rel=0.1)


def test_it_follows_the_layers_device_and_precision():
    half = PromptedLayer(EncoderLayer(8, 2, 12, 0.1).bfloat16(), 3)
    tokens, positions, mask = inputs()
    assert half.prompts.dtype == torch.bfloat16
    assert half(tokens.bfloat16(), positions.bfloat16(), mask).dtype == torch.bfloat16


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="count must be at least 1 prompt, got 0"):
        PromptTuning(["encoder"], count=0)
    with pytest.raises(ValueError, match="scope '0' holds no layer"):
        PromptTuning(["0"]).inject(nn.Sequential(nn.Linear(2, 2)))
