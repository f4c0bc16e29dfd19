"""How sure a network is of a tube, by what it says."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.inference import InferenceProtocol
from stvg_nst.prediction.network import tube_confidences
from stvg_nst.types import GroundingOutput, Tube

FRAMES = (0, 4, 8, 12)
TUBE = Tube(4, 9, torch.zeros(5, 4))


def answer(frames: slice, **said: torch.Tensor) -> GroundingOutput:
    """What is said of four frames, as one stage says it of some of them."""
    start_end = torch.tensor([[0.1, 0.0], [0.7, 0.1], [0.1, 0.6], [0.1, 0.3]]).log()[frames]
    length = len(start_end)
    given = {name: value[frames].view(1, 1, length) for name, value in said.items()}
    mask = torch.ones(1, length, dtype=torch.bool)
    return GroundingOutput(
        boxes=torch.zeros(1, 1, length, 4), start_end=start_end[None, None], frame_mask=mask, **given
    )


@pytest.mark.parametrize(
    ("said", "sure"),
    [
        ({"actioness": [0.0, 0.8, 0.6, 0.0], "confidence": [2.0, 1.0, 0.5, 2.0]}, (0.8 * 0.5 + 0.6 * 0.25) / 2),
        ({"actioness": [0.0, 0.8, 0.6, 0.0]}, (0.8 + 0.6) / 2),
        ({"confidence": [2.0, 1.0, 0.5, 2.0]}, (0.5 + 0.25) / 2),
        ({}, (0.7 * 0.6) ** 0.5),
    ],
    ids=["both", "actioness", "confidence", "neither"],
)
def test_a_tube_is_as_sure_as_what_is_said_of_its_frames_or_of_its_ends(
    said: dict[str, list[float]], sure: float
) -> None:
    given = {name: torch.tensor(values) for name, values in said.items()}
    if "actioness" in given:
        given["actioness"] = given["actioness"].logit()
    found = tube_confidences([answer(slice(None), **given)], FRAMES, [TUBE], "single_pass")
    assert found == pytest.approx([sure])


def test_two_passes_are_each_as_sure_as_their_own_frames() -> None:
    protocol: InferenceProtocol = "two_pass"
    outputs = [answer(slice(offset, None, 2)) for offset in (0, 1)]
    # The start is a frame of the second pass, of 0.7 and 0.1; the end one of the first, of 0 and 0.6.
    assert tube_confidences(outputs, FRAMES, [TUBE], protocol) == pytest.approx([(0.7 / 0.8 * 1.0) ** 0.5])
