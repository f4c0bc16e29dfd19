"""Null-space tuning put into a toy grounder; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning.base import InjectionReport, LayerReport
from stvg_nst.tuning.nst import NullSpaceTuning


def test_a_leaking_null_branch_starts_at_zero_and_gets_a_gradient(toy):
    grounder, base = toy.ToyGrounder(), toy.pretrained()
    report = NullSpaceTuning(["encoder.linear1"], rank=6, rank_rule="relative", rank_threshold=0.4).inject(grounder)
    assert report.layers[0].nullity > 0
    assert report.layers[0].leakage > 1e-2
    output = toy.flat(grounder(*toy.toy_batch()))
    torch.testing.assert_close(output, toy.flat(base(*toy.toy_batch())), atol=0, rtol=0)
    output.square().sum().backward()
    assert grounder.encoder.linear1.unit.null_head.outer.weight.grad.abs().max() > 0


def test_a_strategy_chooses_among_the_targets(toy):
    def chosen(**options) -> list[str]:
        return [layer.name for layer in NullSpaceTuning(["*coder"], rank=6, **options).inject(toy.ToyGrounder()).layers]

    assert chosen(strategy="structural") == ["encoder.linear2", "decoder.linear2"]
    assert chosen(strategy="structural", exclude=["encoder"]) == ["decoder.linear2"]
    assert chosen(strategy="high_nullity", share=0.25) == ["decoder.linear2"]
    draws = {tuple(chosen(strategy="random", share=0.5, seed=seed)) for seed in range(8)}
    assert len(draws) > 1


def test_no_strategy_chooses_a_layer_without_weights(toy):
    def chosen(**options) -> list[str]:
        grounder = toy.ToyGrounder()
        nn.init.zeros_(grounder.decoder.linear2.weight)
        with pytest.warns(UserWarning, match="'decoder.linear2' stays as it is"):
            report = NullSpaceTuning(["*coder"], rank=6, **options).inject(grounder)
        return [layer.name for layer in report.layers]

    assert chosen(strategy="structural") == ["encoder.linear2"] == chosen(strategy="high_nullity", share=0.25)
    assert chosen(strategy="random", share=1.0) == ["encoder.linear1", "encoder.linear2", "decoder.linear1"]


def test_a_store_is_read_and_gives_the_same_function(toy, tuned, tmp_path, monkeypatch):
    grounder, _ = tuned(spaces=tmp_path)
    expected = toy.flat(grounder(*toy.toy_batch()))
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: pytest.fail("decomposed again"))
    again, _ = tuned(spaces=tmp_path)
    assert torch.equal(toy.flat(again(*toy.toy_batch())), expected)


def test_initial_values_depend_on_seed_and_name_only(toy):
    def initial(targets: list[str], seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        grounder = toy.ToyGrounder()
        NullSpaceTuning(targets, rank=6, seed=seed).inject(grounder)
        assert torch.equal(torch.get_rng_state(), before)
        return grounder.decoder.linear2.unit.retrieval.attention.query.weight.detach()

    first = initial(["decoder.linear2"], 0, 1)
    assert torch.equal(first, initial(["encoder.linear2", "decoder.linear2"], 0, 2))
    assert not torch.equal(first, initial(["decoder.linear2"], 1, 1))
    grounder = toy.ToyGrounder()
    NullSpaceTuning(["encoder.linear1", "decoder.linear1"], rank=6).inject(grounder)  # of one d_in: the same draws
    queries = [layer.unit.retrieval.attention.query.weight for layer in toy.layers_of(grounder)]
    assert not torch.equal(queries[0], queries[1])


def test_report_says_what_was_put_where(toy):
    # encoder.linear2 is 16 x 40, linear1 40 x 16, head 9 x 16.
    report = NullSpaceTuning(["encoder.linear*", "head"], rank=12).inject(toy.ToyGrounder())
    assert [(layer.name, layer.shape, layer.rank, layer.nullity, layer.adapter) for layer in report.layers] == [
        ("encoder.linear1", (40, 16), 16, 0, "row 12, no null branch"),
        ("encoder.linear2", (16, 40), 16, 24, "row 12, null 12"),
        ("head", (9, 16), 9, 7, "row 9, null 7"),
    ]
    assert report.leakage < 1e-12
    lines = str(report).splitlines()
    assert lines[0].startswith(f"NullSpaceTuning: 3 tuned layers, {report.trainable:,} of {report.total:,} parameters")
    assert lines[3].split() == [
        "encoder.linear2",
        "16",
        "x",
        "40",
        "16",
        "24",
        lines[3].split()[6],
        *["row", "12,", "null", "12"],
    ]
    assert [line.split() for line in report.folded().splitlines()[1:]] == [
        ["encoder.linear1", "1", "of", "40", "x", "16,", "nullity", "0"],
        ["encoder.linear2", "1", "of", "16", "x", "40,", "nullity", "24"],
        ["head", "1", "of", "9", "x", "16,", "nullity", "7"],
    ]


def test_layers_that_differ_by_a_number_are_one_line():
    layers = [LayerReport(f"decoder.{i}.linear2", (4, 8 + i), 4, 4 + i, 0.0, "") for i in range(3)]
    report = InjectionReport("NullSpaceTuning", (*layers, LayerReport("head", (2, 4), 2, 2, 0.0, "")), 1, 10)
    assert report.folded().splitlines()[1:] == [
        "  decoder.*.linear2    3 of 4 x 8 to 10, nullity 4 to 6",
        "  head                 1 of 2 x 4, nullity 2",
    ]


def test_null_directions_of_an_approximate_space_are_the_quietest(toy):
    grounder = toy.ToyGrounder()
    weight = grounder.encoder.linear1.weight.detach().double()
    NullSpaceTuning(["encoder.linear1"], rank=2, rank_rule="relative", rank_threshold=0.9).inject(grounder)
    leak = torch.linalg.matrix_norm(weight @ grounder.encoder.linear1.dual_space.null_basis.double(), ord=2)
    assert leak.item() == pytest.approx(split_dual_space(weight).singular_values[-2].item(), rel=1e-5)


@pytest.mark.parametrize(("rank", "verb"), [(0, "raise"), (-3, "raise"), (17, "lower"), (64, "lower")])
def test_a_rank_that_no_layer_can_hold_is_refused(toy, rank, verb):
    grounder = toy.ToyGrounder()
    with pytest.raises(
        ValueError, match=rf"in \[1, 16\] for 'head' \(16 inputs\), got {rank}; {verb} --model.tuner.init_args.rank"
    ):
        NullSpaceTuning(["head"], rank=rank).inject(grounder)
    assert grounder.head.weight.requires_grad
    assert not toy.layers_of(grounder)
