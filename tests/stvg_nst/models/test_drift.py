"""The model answers as it did when `drift.json` was written, on any machine; drift.py says how it was."""

from __future__ import annotations

import json

import pytest
import torch

from tests.stvg_nst.models.drift import FILE, LENGTHS, MODELS, Answer, answer

# Other processors and kernels round otherwise; a layer that computes something else is off by far more.
TOLERANCE = {"boxes": 1e-4, "confidence": 1e-4, "start_end": 1e-3, "actioness": 1e-3}


FULL_SIZES = [pytest.param(name, marks=pytest.mark.slow) for name in MODELS if name.startswith("full size")]


@pytest.mark.parametrize("name", ["miniature", "small", "small TubeDETR", *FULL_SIZES])
def test_numbers_have_not_moved(name: str) -> None:
    assert_as_it_was(name, answer(MODELS[name]()))


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODELS)
def test_a_card_gives_the_numbers_of_a_processor(name: str) -> None:
    # cuDNN's convolutions would round what they multiply to 10 bits, on cards that can.
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert_as_it_was(name, answer(MODELS[name](), "cuda"))


def assert_as_it_was(name: str, got: Answer) -> None:
    expected = json.loads(FILE.read_text())[name]
    assert expected.keys() == got.keys()
    for output in expected:
        tolerance = TOLERANCE[output]
        then, now = torch.tensor(expected[output]), torch.tensor(got[output])
        assert len(then) == sum(LENGTHS) and then.std() > 10 * tolerance
        torch.testing.assert_close(now, then, atol=tolerance, rtol=0, msg=lambda text, part=output: f"{part}: {text}")
