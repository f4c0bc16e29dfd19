from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn

from stvg_nst.seeding import derive_seed
from stvg_nst.tuning import FullFineTuning, LoRA, NullSpaceTuning, PromptTuning
from stvg_nst.tuning.selection import select_by_name, select_layers, select_modules

# Rank ratios of the toy's layers: pixels 1, encoder.linear1 1, encoder.linear2 0.4, decoder.linear1 1,
# decoder.linear2 1/3, head 9/16.
EVERYTHING = ["*"]


def test_patterns_select_linears_in_model_order_once(toy):
    grounder = toy.ToyGrounder()
    assert list(select_by_name(grounder, ["head", "*coder.linear2", "encoder.linear?"])) == [
        "encoder.linear1",
        "encoder.linear2",
        "decoder.linear2",
        "head",
    ]
    assert select_by_name(grounder, ["encoder.linear2"])["encoder.linear2"] is grounder.encoder.linear2


def test_a_shared_layer_is_found_under_any_name_and_wrapped_under_all(toy):
    grounder = toy.ToyGrounder()
    assert select_by_name(grounder, ["alias.0"]) == {"head": grounder.head}
    NullSpaceTuning(["alias.0"], rank=4).inject(grounder)
    assert grounder.alias[0] is grounder.head
    assert not isinstance(grounder.head, nn.Linear)


def test_a_shared_module_is_selected_under_any_name(toy):
    grounder = toy.ToyGrounder()
    assert select_modules(grounder, ["alias.0"]) == select_modules(grounder, ["head"]) == {"head": grounder.head}
    tuner = FullFineTuning(["alias.?"])
    tuner.inject(grounder)
    assert [id(parameter) for parameter in tuner.trainable_parameters(grounder)] == list(
        map(id, grounder.head.parameters())
    )


@pytest.mark.parametrize(
    "tuner",
    [
        lambda: LoRA("head", rank=2),
        lambda: NullSpaceTuning(["head"], exclude="alias", rank=2),
        lambda: FullFineTuning("head"),
        lambda: PromptTuning("head"),
    ],
)
def test_one_text_is_no_list_of_patterns(toy, tuner):
    with pytest.raises(ValueError, match=r"a list of patterns, got the text '(\w+)'; write \['\1'\]"):
        tuner().inject(toy.ToyGrounder())


def test_a_pattern_without_a_match_names_close_layers(toy):
    with pytest.raises(ValueError, match=r"target 'decoder.linaer2' matches no module; .*'decoder.linear2'"):
        select_by_name(toy.ToyGrounder(), ["head", "decoder.linaer2"])
    with pytest.raises(
        ValueError, match=r"'x' matches no module; nn\.Linear layers with close names: 'pixels', 'encoder"
    ):
        select_by_name(toy.ToyGrounder(), ["x"])
    with pytest.raises(ValueError, match=r"the model has no nn\.Linear at all"):
        select_by_name(nn.Sequential(nn.ReLU()), ["x"])


def test_what_is_no_linear_layer_is_refused(toy):
    with pytest.raises(ValueError, match=r"'encoder.\*' must match nn.Linear only, got Dropout at 'encoder.dropout'"):
        select_by_name(toy.ToyGrounder(), ["encoder.*"])
    with pytest.raises(ValueError, match="at least one target pattern, got none"):
        select_by_name(toy.ToyGrounder(), [])


def test_a_failed_injection_leaves_the_model_as_it_was(toy):
    grounder = toy.ToyGrounder()
    before = [type(module) for module in grounder.modules()]
    with pytest.raises(ValueError, match="matches no module"):
        NullSpaceTuning(["head", "nothing"], rank=4).inject(grounder)
    assert [type(module) for module in grounder.modules()] == before
    assert all(parameter.requires_grad for parameter in grounder.parameters())
    assert not grounder.reference_point._forward_hooks


def ladder(ranks: list[int], d_in: int = 8) -> nn.Sequential:
    """Square layers '0', '1', ... of the given ranks, each with singular values rank, ..., 2, 1, 0, 0, ..."""
    model = nn.Sequential(*(nn.Linear(d_in, d_in) for _ in ranks))
    for layer, rank in zip(model, ranks, strict=True):
        with torch.no_grad():
            layer.weight.copy_(torch.diag(torch.arange(rank, rank - d_in, -1).clamp(min=0).float()))
    return model


def test_strategies_by_nullity_take_the_share_at_either_end(toy):
    grounder = toy.ToyGrounder()
    lowest = {0.1: ["decoder.linear2"], 0.3: ["encoder.linear2", "decoder.linear2"]}
    for share, names in lowest.items():
        assert list(select_layers(grounder, EVERYTHING, strategy="high_nullity", share=share)) == names
    assert list(select_layers(grounder, EVERYTHING, strategy="low_nullity", share=0.5)) == [
        "pixels",
        "encoder.linear1",
        "decoder.linear1",
    ]
    assert select_layers(grounder, EVERYTHING, strategy="high_nullity")["decoder.linear2"] is grounder.decoder.linear2


def test_strategies_agree_with_a_sort_by_rank():
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        ranks = (1 + torch.randperm(8, generator=generator))[:7].tolist()
        model, share = ladder(ranks), torch.rand(1, generator=generator).item()
        count = math.ceil(share * len(ranks))
        ordered = sorted(range(len(ranks)), key=ranks.__getitem__)
        high = select_layers(model, EVERYTHING, strategy="high_nullity", share=share)
        low = select_layers(model, EVERYTHING, strategy="low_nullity", share=share)
        assert list(high) == [str(i) for i in sorted(ordered[:count])]
        assert list(low) == [str(i) for i in sorted(ordered[-count:])]


def test_the_share_is_of_the_candidates_as_written_and_rounded_up():
    model = ladder([8] * 100, d_in=2)
    for share, count in {0.07: 7, 0.071: 8, 0.0001: 1, 1.0: 100, 0.5: 50}.items():
        assert len(select_layers(model, EVERYTHING, strategy="random", share=share)) == count, share
    assert len(select_layers(model, ["1?"], strategy="random", share=0.25)) == 3


def test_equal_rank_ratios_fall_to_the_models_order_with_a_warning():
    model = ladder([8, 3, 8, 3, 8, 3])
    for strategy, tied, first in ("high_nullity", 3, ["1", "3"]), ("low_nullity", 8, ["0", "2"]):
        message = rf"'{strategy}' parts .*: of 3 with {tied / 8:.4g} it takes 2, the first"
        with pytest.warns(UserWarning, match=message):
            assert list(select_layers(model, EVERYTHING, strategy=strategy, share=1 / 3)) == first
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for share in (0.5, 1.0):  # nothing is parted
            select_layers(model, EVERYTHING, strategy="high_nullity", share=share)
        select_layers(model, EVERYTHING, strategy="random", share=1 / 3)


def test_the_rule_decides_what_counts_as_rank():
    model = ladder([8, 8])
    with torch.no_grad():
        model[1].weight.copy_(torch.diag(torch.tensor([8.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])))
    for rule, threshold in ("relative", 0.1), ("energy", 0.9):
        for strategy, name in ("high_nullity", "1"), ("low_nullity", "0"):
            chosen = select_layers(model, EVERYTHING, strategy=strategy, rule=rule, threshold=threshold)
            assert list(chosen) == [name]


def test_structural_takes_exactly_the_exact_null_spaces_under_every_rule(toy):
    grounder, names = toy.ToyGrounder(), ["encoder.linear2", "decoder.linear2", "head"]
    assert list(select_layers(grounder, EVERYTHING, strategy="structural", share=0.1)) == names
    chosen = select_layers(grounder, EVERYTHING, strategy="structural", rule="energy", threshold=0.5)
    assert list(chosen) == names
    assert list(select_layers(ladder([8, 7, 8]), EVERYTHING, strategy="structural")) == ["1"]
    with pytest.raises(ValueError, match=r"none of the 2 candidates has an exact null space; .*'energy'"):
        select_layers(ladder([8, 8]), EVERYTHING, strategy="structural")


def test_a_draw_depends_on_seed_and_name_alone():
    model = ladder([8] * 40, d_in=2)

    def draw(seed: int, **options) -> set[str]:
        return set(select_layers(model, EVERYTHING, strategy="random", share=0.25, seed=seed, **options))

    assert draw(0) == draw(0)
    assert draw(0) == set(sorted(map(str, range(40)), key=lambda name: derive_seed("layer selection", 0, name))[:10])
    assert len({frozenset(draw(seed)) for seed in range(10)}) == 10
    drawn = sum(("0" in draw(seed)) for seed in range(200))
    assert 25 < drawn < 75  # 50 on average, 6 its standard deviation
    # One candidate less moves no other's draw: who was chosen stays, and one comes up.
    gone = min(draw(0))
    assert draw(0) - {gone} < draw(0, exclude=[gone])


def test_a_draw_and_all_need_no_decomposition(toy, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("decomposed")

    monkeypatch.setattr(torch.linalg, "svdvals", refuse)
    monkeypatch.setattr(torch.linalg, "svd", refuse)
    select_layers(toy.ToyGrounder(), EVERYTHING, strategy="random")
    select_layers(toy.ToyGrounder(), ["head"])
    with pytest.raises(AssertionError, match="decomposed"):
        select_layers(toy.ToyGrounder(), EVERYTHING, strategy="high_nullity")


def test_all_is_by_name_and_takes_no_whole_module(toy):
    grounder = toy.ToyGrounder()
    targets = ["head", "*coder.linear2"]
    assert select_layers(grounder, targets) == select_by_name(grounder, targets)
    with pytest.raises(ValueError, match=r"'encoder' must match nn\.Linear only, got EncoderLayer at 'encoder'"):
        select_layers(grounder, ["encoder"])


def test_the_other_strategies_take_all_that_is_in_a_module(toy):
    grounder = toy.ToyGrounder()

    def candidates(*targets: str, exclude: tuple[str, ...] = ()) -> list[str]:
        return list(select_layers(grounder, targets, strategy="random", share=1.0, exclude=exclude))

    assert candidates("decoder") == candidates("decoder.*") == ["decoder.linear1", "decoder.linear2"]
    assert candidates("decoder.linear1", "head") == ["decoder.linear1", "head"]
    assert candidates("alias") == ["head"]
    assert candidates("*", exclude=("encoder", "*.linear1")) == ["pixels", "decoder.linear2", "head"]
    assert candidates("*coder", "head", exclude=("alias.0",)) == candidates("*coder")
    with pytest.raises(ValueError, match=r"'encoder.dropout' holds no nn\.Linear, got Dropout at 'encoder.dropout'"):
        candidates("head", "encoder.dropout")


def test_exclude_serves_all_too_and_must_match_something_and_leave_something(toy):
    grounder = toy.ToyGrounder()
    chosen = select_layers(grounder, ["*.linear?"], exclude=["decoder", "*.linear1"])
    assert list(chosen) == ["encoder.linear2"]
    with pytest.raises(ValueError, match=r"exclude 'decodr' matches no module; .*modules that hold some.*: 'decoder'"):
        select_layers(grounder, ["*.linear?"], exclude=["decodr"])
    with pytest.raises(ValueError, match=r"exclude '\*\.linear1', 'head' leaves none of the 2 layers"):
        select_layers(grounder, ["head", "decoder.linear1"], exclude=["*.linear1", "head"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "highest"}, "one of all, high_nullity, low_nullity, random, structural, got 'highest'"),
        ({"strategy": "random", "share": 0.0}, r"must lie in \(0, 1\], got 0.0"),
        ({"strategy": "random", "share": 1.5}, r"must lie in \(0, 1\], got 1.5"),
        ({"strategy": "random", "share": float("nan")}, r"must lie in \(0, 1\], got nan"),
        ({"threshold": 0.5}, "takes no threshold, got 0.5"),
        ({"strategy": "low_nullity", "rule": "energy"}, "rule 'energy' needs a threshold"),
    ],
)
def test_an_option_out_of_range_is_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        select_layers(toy.ToyGrounder(), EVERYTHING, **options)


@pytest.fixture
def fast_path():
    before = torch.backends.mha.get_fastpath_enabled()
    yield torch.backends.mha.set_fastpath_enabled
    torch.backends.mha.set_fastpath_enabled(before)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("target", ["self_attn.out_proj", "linear1", "linear2"])
def test_a_layer_whose_weight_pytorch_reads_around_its_forward_is_refused(fast_path, target, fast):
    torch.manual_seed(0)
    fast_path(fast)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    if target == "self_attn.out_proj" or fast:
        advice = "set_fastpath_enabled" if target.startswith("linear") else "blocks.layers.Attention"
        with pytest.raises(ValueError, match=rf"'{target}' cannot be tuned: nn\..* reads its weight .*{advice}"):
            LoRA([target], rank=2).inject(layer)
        assert all(parameter.requires_grad for parameter in layer.parameters()), "left as it was"
    else:
        before = layer.eval()(torch.ones(1, 3, 8))
        LoRA([target], rank=2).inject(layer)
        torch.testing.assert_close(layer(torch.ones(1, 3, 8)), before)
