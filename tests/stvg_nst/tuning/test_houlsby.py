"""Adapters: a bottleneck behind a frozen layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from stvg_nst.tuning import HoulsbyAdapters
from stvg_nst.tuning.houlsby import BottleneckLinear

TARGETS = ("encoder.linear2", "decoder.linear2", "head")


@torch.no_grad()
def test_the_output_by_hand():
    layer = BottleneckLinear(nn.Linear(1, 2, bias=False), width=1)
    layer.base_layer.weight.copy_(torch.tensor([[1.0], [2.0]]))
    layer.down.weight.copy_(torch.tensor([[1.0, 1.0]]))
    layer.down.bias.fill_(-1.0)
    layer.up.weight.copy_(torch.tensor([[0.0], [10.0]]))
    layer.up.bias.copy_(torch.tensor([0.5, 0.0]))
    # Of x = 1: h = (1, 2), the bottleneck sees 1 + 2 - 1 = 2.
    gelu = 2 * 0.5 * (1 + math.erf(2 / math.sqrt(2)))
    torch.testing.assert_close(layer(torch.ones(1, 1, 1)).flatten(), torch.tensor([1.5, 2 + 10 * gelu]))


def test_the_size_is_that_of_the_outputs_and_no_wider(toy):
    grounder = toy.ToyGrounder()
    report = HoulsbyAdapters(TARGETS, width=12).inject(grounder)
    # 16, 16 and 9 outputs: each bottleneck has two maps and two biases.
    assert report.trainable == 2 * (2 * 12 * 16 + 12 + 16) + (2 * 9 * 9 + 9 + 9)
    assert [layer.adapter for layer in report.layers] == ["bottleneck 12", "bottleneck 12", "bottleneck 9"]


def test_a_layer_is_drawn_by_seed_and_name_alone(toy):
    drawn = []
    for targets, seed in ((TARGETS, 5), (TARGETS[1:], 5), (TARGETS, 6)):
        grounder = toy.ToyGrounder()
        HoulsbyAdapters(targets, width=4, seed=seed).inject(grounder)
        drawn.append(grounder.head.down.weight)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_no_width_is_refused():
    with pytest.raises(ValueError, match="width must be at least 1, got 0; raise"):
        HoulsbyAdapters(TARGETS, width=0)
