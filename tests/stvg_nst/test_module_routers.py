"""What the LightningModule does for a router: it keeps labels out of evaluations, and keeps what the router learned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stvg_nst.module import GroundingModule
from stvg_nst.tuning import GatedAdapter, NullSpaceTuning
from stvg_nst.tuning.nst import NullSpaceLinear
from stvg_nst.types import Quality
from tests.stvg_nst.test_twin import TARGETS, batch, grounder  # noqa: F401 (a fixture)

OPTIONS = {"rank": 4, "retrieval_width": 8, "heads": 1, "router": "shared", "gate_training": "label"}


@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize("kind", [NullSpaceTuning, GatedAdapter])
def test_other_labels_change_no_tube_and_no_verdict(grounder, kind, gate):  # noqa: F811
    module = GroundingModule(grounder, kind(TARGETS, gate=gate, **OPTIONS), weights="random").eval()
    for layer in grounder.modules():
        if isinstance(layer, NullSpaceLinear):
            torch.nn.init.normal_(layer.unit.row_head.outer.weight)
    shown = batch(Quality.HQ, Quality.LQ, Quality.LQ, frames=4)
    with torch.no_grad():
        answers = [module._evaluate(replace(shown, qualities=q)) for q in (shown.qualities, 1 - shown.qualities)]
    (one, other) = answers
    assert one["verdicts"] == other["verdicts"] and one["verdicts"] is not None
    for tube, again in zip(one["tubes"], other["tubes"], strict=True):
        assert (tube.start, tube.stop) == (again.start, again.stop) and torch.equal(tube.boxes, again.boxes)


def test_a_checkpoint_of_before_there_were_thresholds_is_resumed(grounder):  # noqa: F811
    module = GroundingModule(grounder, NullSpaceTuning(TARGETS, **OPTIONS), weights="random")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    del checkpoint["state_dict"]["grounder.reference_point.router.threshold"]
    module.on_load_checkpoint(checkpoint)
    del checkpoint["state_dict"]["grounder.reference_point.router.router.mlp.inner.weight"]
    with pytest.raises(ValueError, match=r"the first that differ: grounder\.reference_point\.router\.router"):
        module.on_load_checkpoint(checkpoint)
