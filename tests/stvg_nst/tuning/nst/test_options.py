"""The options of null-space tuning, from Python and from a configuration."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentParser
from torch import nn

from stvg_nst.tuning.base import Tuner
from stvg_nst.tuning.nst import NullSpaceTuning


def test_other_nonsense_is_refused_with_its_value(toy):
    with pytest.raises(ValueError, match="width of retrieval 16, got 3; change"):
        NullSpaceTuning(["head"], rank=6, heads=3).inject(toy.ToyGrounder())
    with pytest.raises(ValueError, match="at least 1, got 0"):
        NullSpaceTuning(["head"], hidden=0)
    with pytest.raises(ValueError, match="gate must be one of soft, hard, oracle, open, got 'ajar'"):
        NullSpaceTuning(["head"], gate="ajar")
    silent = toy.ToyGrounder()
    silent.head.weight.data.zero_()
    with pytest.raises(ValueError, match=r"all weights of 'head' are zero, .* give trained weights: --model\.weights"):
        NullSpaceTuning(["head"], rank=6).inject(silent)
    with pytest.raises(ValueError, match="Linear is no Grounder: name the module"):
        NullSpaceTuning(["head"], rank=6).inject(nn.Linear(2, 2))
    blind = toy.ToyGrounder()
    blind.reference_point = nn.Identity()
    with pytest.raises(ValueError, match="exactly one ReferencePoint in ToyGrounder, got 0"):
        NullSpaceTuning(["head"], rank=6).inject(blind)


def test_a_config_can_name_it_and_its_help_comes_from_the_fields():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    config = {"class_path": "stvg_nst.tuning.NullSpaceTuning", "init_args": {"targets": ["head"], "rank": 8}}
    tuner = parser.instantiate(parser.parse_object({"tuner": config})).tuner
    assert tuner == NullSpaceTuning(targets=["head"], rank=8)
    zero_shot = parser.instantiate(parser.parse_args(["--tuner=stvg_nst.tuning.ZeroShot"])).tuner
    assert type(zero_shot).__name__ == "ZeroShot"


@pytest.mark.parametrize(
    ("options", "one"),
    [
        ({"gate": "hard", "router": "shared"}, True),
        ({"gate": "soft", "router": "shared"}, False),
        ({"gate": "hard", "router": "layer"}, False),
        ({"gate": "hard", "router": "shared", "gate_per": "frame"}, False),
    ],
)
def test_one_hard_gate_is_that_of_a_whole_clip_for_all_layers(options, one):
    assert NullSpaceTuning(["head"], **options).has_one_hard_gate is one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate_training": "label"}, "needs router 'shared' and gate 'soft' or 'hard', got router 'layer'"),
        ({"gate_training": "label", "router": "shared", "gate": "oracle"}, "and gate 'oracle'"),
        ({"router_reads": "pixels"}, "router_reads must be one of gap, statistics, got 'pixels'"),
        ({"router_reads": "statistics"}, "needs router 'shared' and gate 'soft' or 'hard', got router 'layer'"),
        ({"gate_jitter": 0.1}, "be 0 unless gate_training is 'label', got 0.1"),
        ({"row_input": "reference"}, "row_input must be one of shared, hq_null, got 'reference'"),
        ({"hq_energy": 1.0}, r"in \(0, 1\), got 1.0"),
        ({"calibration_clips": 0}, "calibration_clips must be at least 1, got 0"),
        ({"gate_training": "label", "router": "shared", "gate_jitter": 0.7}, r"\[0, 0.5\].*got 0.7"),
    ],
)
def test_options_that_do_not_fit_each_other_or_themselves_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NullSpaceTuning(["head"], **options)
