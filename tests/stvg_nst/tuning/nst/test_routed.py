"""Where a hard gate opens: a threshold that few clean clips exceed."""

from __future__ import annotations

import math

import pytest
import torch

from stvg_nst.tuning import GatedAdapter, GatedLoRA, NullSpaceTuning, Switch
from stvg_nst.tuning.nst.routed import GateThreshold
from stvg_nst.tuning.nst.router import shared_router

FALSE_ALARMS = {"false_alarms": 0.25, "heads": 1}
TUNERS = {
    "nst": lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, router="shared", gate="hard", **FALSE_ALARMS),
    "nst_frame": lambda toy: NullSpaceTuning(
        toy.TARGETS, rank=6, router="shared", gate="hard", gate_per="frame", **FALSE_ALARMS
    ),
    "gated_adapter": lambda toy: GatedAdapter(toy.TARGETS, rank=6, router="shared", gate="hard", **FALSE_ALARMS),
    "gated_lora": lambda toy: GatedLoRA(toy.TARGETS, rank=6, gate="hard", **FALSE_ALARMS),
    "switch": lambda toy: Switch(["encoder"], **FALSE_ALARMS),
    "nst_statistics": lambda toy: NullSpaceTuning(
        toy.TARGETS, rank=6, router="shared", router_reads="statistics", gate="hard", **FALSE_ALARMS
    ),
}


def test_a_threshold_by_hand():
    found = GateThreshold.of(torch.tensor([3.0, 1.0, 2.0, 0.0]), 0.5)
    assert found == (2.0, 0.5, 1, 4, 0.4)
    assert str(found) == (
        "the hard gate opens above a probability of 0.881: 1 of 4 clean clips open it, and a new one with a "
        "probability of at most 40.00%"
    )
    few = GateThreshold.of(torch.tensor([3.0, 1.0]), 0.01)
    assert (few.logit, few.opened, few.bound) == (3.0, 0, pytest.approx(1 / 3))
    assert str(few).endswith("at most 33.33%, for 2 are too few to promise 1.00%")
    assert str(GateThreshold.of(torch.tensor([-800.0]), 0.5)).startswith(
        "the hard gate opens above a probability of 0:"
    )
    # 0.29 * 100 is less than 29 in binary.
    assert GateThreshold.of(torch.arange(99.0), 0.29).opened == 28
    with pytest.raises(ValueError, match="at least one clean clip to set the threshold of a hard gate by, got none"):
        GateThreshold.of(torch.tensor([]), 0.5)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.34])
def test_of_clips_like_those_no_more_than_the_share_exceeds_what_the_others_set(share):
    clips = torch.randn(40, generator=torch.Generator().manual_seed(0))
    exceed = sum(
        clip.item() > GateThreshold.of(torch.cat([clips[:index], clips[index + 1 :]]), share).logit
        for index, clip in enumerate(clips)
    )
    assert exceed == math.floor(share * len(clips))


@pytest.mark.parametrize("name", TUNERS)
def test_a_calibrated_gate_opens_for_no_more_clean_clips_and_stays_with_the_adapter(toy, name):
    grounder, tuner = toy.ToyGrounder(), TUNERS[name](toy)
    assert tuner.calibrates_gate
    tuner.inject(grounder)
    grounder(*toy.toy_batch())
    logits = tuner.opening_logits()
    assert logits.shape == (3,) and logits.isfinite().all()
    assert tuner.calibrate_gate(grounder, logits).startswith("the hard gate opens above")
    assert shared_router(grounder).threshold == logits.max()
    grounder(*toy.toy_batch())
    gates = [gate for name, gate in tuner.diagnostics().items() if name.startswith("gate/")]
    assert gates and not torch.stack(gates).any(), "no frame that is real opens it"
    shared_router(grounder).threshold.sub_(1e-3)
    grounder(*toy.toy_batch())
    assert any(gate.any() for name, gate in tuner.diagnostics().items() if name.startswith("gate/"))


@pytest.mark.parametrize(
    ("options", "threshold", "warned"),
    [
        ({"gate": "hard", "false_alarms": 0.02}, 0.0, True),
        ({"gate": "hard", "gate_per": "frame", "false_alarms": 0.02}, 0.0, True),
        ({"gate": "hard", "false_alarms": 0.02}, 0.1, False),
        ({"gate": "soft", "false_alarms": 0.02}, 0.0, False),
        ({"gate": "hard"}, 0.0, False),
    ],
)
def test_a_hard_gate_whose_threshold_was_never_set_is_told(toy, recwarn, options, threshold, warned):
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(toy.TARGETS, rank=6, router="shared", **options)
    tuner.inject(grounder)
    shared_router(grounder).threshold.fill_(threshold)
    tuner.warn_of_uncalibrated_gate(grounder)
    told = [str(warning.message) for warning in recwarn]
    assert len(told) == warned
    assert all("by which at most 2.00% of clean clips open it" in words for words in told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "shared", "false_alarms": 1.0}, "a share between 0 and 1, or null, got 1.0"),
        ({"false_alarms": 0.01}, "needs router 'shared' and gate 'soft' or 'hard', got router 'layer'"),
    ],
)
def test_a_threshold_that_means_nothing_is_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        NullSpaceTuning(toy.TARGETS, **options)
