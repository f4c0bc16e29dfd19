"""The quality-adaptive unit: retrieval, coefficients and routers, eqs. (3) and (4)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stvg_nst.models.base import TokenGrid
from stvg_nst.tuning.adapter import adapter_state
from stvg_nst.tuning.nst.reference import ReferenceBank
from stvg_nst.tuning.nst.unit import QualityAdaptiveUnit, Retrieval

QUALITIES = torch.tensor([0, 1, 1])


@pytest.mark.parametrize("coefficients_from", ["reference", "reference_and_gap"])
def test_eq_3_and_4_and_the_gap_by_hand(coefficients_from):
    torch.manual_seed(0)
    options = {"heads": 2, "hidden": 8, "gate_per": "clip", "coefficients_per": "token", "routes": True}
    unit = QualityAdaptiveUnit(4, 4, width=4, row_rank=3, null_rank=2, coefficients_from=coefficients_from, **options)
    attention = unit.retrieval.attention
    nn.init.eye_(attention.out.weight)
    nn.init.zeros_(attention.query.weight)  # with zero queries every real token of the bank weighs the same
    nn.init.zeros_(attention.query.bias)
    x = torch.randn(1, 3, 4)
    mask = torch.tensor([[True, True, False]])
    bank = ReferenceBank(torch.randn(1, 4, 4), torch.tensor([[True, True, True, False]]), (TokenGrid(mask),))
    found = attention.value(bank.tokens[:, :3]).mean(1, keepdim=True).expand(1, 3, 4) + attention.out.bias
    gap = x - found
    source = found if coefficients_from == "reference" else torch.cat([found, gap], dim=-1)
    row, null, logits = unit(x, bank, mask)
    torch.testing.assert_close(row.written(), unit.row_head(source))
    torch.testing.assert_close(null.written(), unit.null_head(source))
    pooled = torch.cat([gap[:, :2].mean(1), gap[:, :2].abs().mean(1)], dim=-1)
    torch.testing.assert_close(logits, unit.router.mlp(pooled).squeeze(-1))


@pytest.mark.parametrize("heads", [1, 3])
def test_retrieval_is_attention_in_its_textbook_form(heads):
    torch.manual_seed(0)
    retrieval = Retrieval(5, 8, width=6, heads=heads).double()
    x, tokens = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 7, 8, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    attention, queries = retrieval.attention, retrieval.project(x).flatten(1, 2)
    parts = (attention.query(queries), attention.key(tokens), attention.value(tokens))
    split = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    mixed = F.scaled_dot_product_attention(*split, attn_mask=mask[:, None, None])
    found = attention.out(mixed.transpose(1, 2).flatten(2))

    lookup = retrieval(x, ReferenceBank(tokens, mask, ()))
    torch.testing.assert_close(lookup.found(), found)
    torch.testing.assert_close(lookup.gap(), queries - found)
    for source in (found, torch.cat([found, queries - found], dim=-1)):
        layer = nn.Linear(source.shape[-1], 2, dtype=torch.float64)
        torch.testing.assert_close(lookup.mapped(layer.weight, layer.bias), layer(source))


@pytest.mark.parametrize("router", ["layer", "shared"])
def test_coefficients_from_the_input_look_nothing_up(tuned, router):
    grounder, _ = tuned(router=router, coefficients_from="input")
    assert not any(isinstance(module, Retrieval) for module in grounder.modules())


def test_a_shared_router_is_one_and_is_saved_with_the_adapter(toy, tuned):
    grounder, tuner = tuned(router="shared")
    grounder(*toy.toy_batch())
    values = tuner.diagnostics()
    assert torch.equal(values["gate/head"], values["gate/encoder.linear2"])
    assert any(name.startswith("reference_point.router.") for name in adapter_state(grounder))
    assert not any("unit.router" in name for name in adapter_state(grounder))


@pytest.mark.parametrize("gate_per", ["clip", "frame"])
def test_padding_changes_neither_a_clips_gate_nor_its_output(toy, tuned, gate_per):
    grounder, tuner = tuned(gate_per=gate_per)
    frames, frame_mask, queries = toy.toy_batch()
    frames[1, 3:] = 50.0  # whatever padding holds
    output = toy.flat(grounder(frames, frame_mask, queries))
    together = tuner.diagnostics()
    alone = toy.flat(grounder(frames[1:2, :3], frame_mask[1:2, :3], queries[1:2]))
    torch.testing.assert_close(alone[:, 0], output[:, 1, :3], atol=1e-6, rtol=1e-5)
    for name, value in tuner.diagnostics().items():
        if name.startswith(("gate", "router")):
            torch.testing.assert_close(value, together[name][1:2], atol=1e-6, rtol=1e-5)


def test_half_precision_keeps_the_gate_in_single(toy, tuned):
    grounder, tuner = tuned()
    full = toy.flat(grounder(*toy.toy_batch()))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = toy.flat(grounder(*toy.toy_batch()))
        losses = tuner.auxiliary_losses(QUALITIES)
    torch.testing.assert_close(mixed.float(), full, atol=0.1, rtol=0.1)
    logits = tuner._state.read(["head"], close=False)["head"][0].logits
    assert not torch.equal(logits, logits.bfloat16().float())
    assert {value.dtype for value in [*losses.values(), *tuner.diagnostics().values()]} == {torch.float32}
    grounder.bfloat16()
    frames, frame_mask, queries = toy.toy_batch(dtype=torch.bfloat16)
    pure = toy.flat(grounder(frames, frame_mask, queries))
    torch.testing.assert_close(pure.float(), full, atol=0.3, rtol=0.1)
    assert {value.dtype for value in tuner.auxiliary_losses(QUALITIES).values()} == {torch.float32}
