"""Gated LoRA: LoRA's own update, times the clip's gate."""

from __future__ import annotations

import torch
from torch import nn

from stvg_nst.tuning import GatedLoRA, LoRA
from stvg_nst.tuning.gated_lora import GatedLoraLinear
from stvg_nst.tuning.nst.reference import ForwardState

TARGETS = ("encoder.linear2", "decoder.linear2", "head")
QUALITIES = torch.tensor([0, 1, 1])


def pair(toy, **options):
    """A toy under gated LoRA and one under LoRA, with the same random updates."""
    grounder, plain = toy.ToyGrounder(), toy.ToyGrounder()
    tuner = GatedLoRA(TARGETS, rank=12, alpha=6, seed=0, **options)
    tuner.inject(grounder)
    LoRA(TARGETS, rank=12, alpha=6, seed=0).inject(plain)
    generator = torch.Generator().manual_seed(0)
    for name in TARGETS:
        gated, lora = grounder.get_submodule(name), plain.get_submodule(name).peft_layer
        a, b = lora.lora_A["default"].weight, lora.lora_B["default"].weight
        torch.testing.assert_close(gated.lora_a.std(), a.std(), rtol=0.15, atol=0, msg="of PEFT's distribution")
        a.data.copy_(gated.lora_a)
        gated.lora_b.data.copy_(torch.randn(b.shape, generator=generator))
        b.data.copy_(gated.lora_b)
    return grounder, tuner, plain


def test_an_open_gate_is_lora(toy):
    grounder, tuner, plain = pair(toy)
    with tuner.override_gate(1.0):
        output = toy.flat(grounder(*toy.toy_batch()))
    torch.testing.assert_close(output, toy.flat(plain(*toy.toy_batch())), rtol=1e-6, atol=1e-6)


def test_the_gate_multiplies_the_update():
    state = ForwardState()
    state.shared_logits = torch.tensor([-1.0, 1.0])
    base = nn.Linear(2, 1, bias=False)
    layer = GatedLoraLinear(base, name="a", hard=False, state=state, rank=1, scale=0.5, dropout=0.0)
    with torch.no_grad():
        layer.base_layer.weight.copy_(torch.tensor([[1.0, 0.0]]))
        layer.lora_a.copy_(torch.tensor([[0.0, 2.0]]))
        layer.lora_b.copy_(torch.tensor([[3.0]]))
    low, high = torch.tensor([-1.0, 1.0]).sigmoid().tolist()
    found = layer(torch.tensor([[[1.0, 1.0]], [[2.0, 1.0]]])).flatten()
    torch.testing.assert_close(found, torch.tensor([1 + low * 3, 2 + high * 3]))


def test_a_hard_gate_computes_no_update_of_a_closed_clip(toy):
    grounder, tuner, _ = pair(toy, gate="hard")
    seen = []
    grounder.head._update = lambda x, gate: seen.append(len(x)) or GatedLoraLinear._update(grounder.head, x, gate)
    for gates in ([0, 1, 0], [0, 0, 0]):
        with tuner.override_gate(torch.tensor(gates, dtype=torch.float32)):
            grounder(*toy.toy_batch())
    assert seen == [1, 1], "once for each of two stages, and not at all where no gate is open"


def test_a_hard_gate_that_is_forced_halfway_multiplies_as_a_soft_one_does(toy):
    outputs = []
    for gate in ("soft", "hard"):
        grounder, tuner, _ = pair(toy, gate=gate)
        with tuner.override_gate(torch.tensor([0.0, 0.25, 1.0])):
            outputs.append(toy.flat(grounder(*toy.toy_batch())))
    torch.testing.assert_close(*outputs)


def test_a_clip_of_high_quality_teaches_the_update_nothing(toy):
    grounder, tuner, _ = pair(toy)
    tuner.set_training(grounder, True)
    found = []
    for clips in (slice(1, 3), slice(0, 3)):
        grounder.zero_grad()
        with tuner.conditioned_on(QUALITIES):
            toy.flat(grounder(*toy.toy_batch()))[:, clips].square().sum().backward()
        found.append([grounder.get_submodule(name).lora_b.grad.clone() for name in TARGETS])
    assert all(torch.equal(*both) and both[0].any() for both in zip(*found, strict=True))
