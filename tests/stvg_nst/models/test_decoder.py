"""The decoder that both grounders share, with and without its attention over time."""

from __future__ import annotations

import copy

import pytest
import torch

from stvg_nst.models.blocks.decoder import FrameDecoder, FrameMemory

WIDTH, HEADS, DEPTH = 16, 4, 3


@pytest.fixture
def memory() -> FrameMemory:
    generator = torch.Generator().manual_seed(0)
    return FrameMemory(
        tokens=torch.randn(2, 5, 7, WIDTH, generator=generator),
        positions=torch.randn(2, 1, 7, WIDTH, generator=generator),
        token_mask=torch.tensor([[[True] * 7], [[True] * 4 + [False] * 3]]),
        frame_mask=torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    )


def decoder(**options: bool) -> FrameDecoder:
    torch.manual_seed(0)
    return FrameDecoder(DEPTH, WIDTH, HEADS, 32, 0.1, **options).eval()


def test_attention_that_is_kept_is_a_mean_of_weights_and_changes_nothing(memory: FrameMemory) -> None:
    position = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    open_, closed = decoder(keep_attention=True)(memory, position), decoder()(memory, position)
    torch.testing.assert_close(open_.states, closed.states, atol=1e-5, rtol=0)
    attention = open_.time_attention
    assert closed.time_attention is None and attention is not None and attention.shape == (DEPTH, 2, 5, 5)
    torch.testing.assert_close(attention.sum(-1), torch.ones(DEPTH, 2, 5))
    assert (attention[:, 1, :, 3:] == 0).all() and (attention[:, 0] > 0).all()


def test_dropped_weights_are_said_as_they_were_used(memory: FrameMemory) -> None:
    model = decoder(keep_attention=True).train()
    torch.manual_seed(3)
    attention = model(memory, torch.zeros(5, WIDTH)).time_attention
    assert attention is not None and (attention.sum(-1) - 1).abs().max() > 0.01


def test_a_position_enters_the_attention_to_the_memory_where_that_is_asked_for(memory: FrameMemory) -> None:
    position = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    seen: dict[bool, torch.Tensor] = {}
    for placed in (False, True):
        model = decoder(placed=placed)
        layer = model.layers[0]
        layer.cross_attn.register_forward_hook(lambda module, inputs, output, at=placed: seen.update({at: inputs[0]}))
        model(memory, position)
    torch.testing.assert_close(seen[True], seen[False] + position)


def test_recomputed_layers_give_the_same_gradients_of_states_and_attention(memory: FrameMemory) -> None:
    kept = decoder(keep_attention=True, placed=True).train()
    recomputed = copy.deepcopy(kept)
    recomputed.recompute = True
    for model in (kept, recomputed):
        torch.manual_seed(5)
        decoded = model(memory, torch.ones(5, WIDTH))
        assert decoded.time_attention is not None
        (decoded.states.square().sum() + decoded.time_attention.square().sum()).backward()
    for ours, theirs in zip(kept.parameters(), recomputed.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad)
