from __future__ import annotations

import pytest
from torch import nn

from stvg_nst.tuning import NullSpaceTuning
from stvg_nst.tuning.selection import select_by_name


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
