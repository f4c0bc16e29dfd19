from __future__ import annotations

import re

import pytest
import torch

from benchmarks import attention


def test_both_ways_are_timed_in_both_stages(capsys: pytest.CaptureFixture[str]) -> None:
    attention.compare("tiny", (1, 2, 3, 4, 2), repeats=1)
    shown = capsys.readouterr().out
    assert re.findall(
        r"^  (forward|and backward) +side by side \d+\.\d ms, summed \d+\.\d ms: ", shown, re.MULTILINE
    ) == [
        "forward",
        "and backward",
    ]


def test_what_is_timed_answers_alike() -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(1, frames, *rest) for frames, *rest in ((2, 4), (2, 4), (2, 3, 4), (1, 3, 4), (2, 3, 4))]
    mask = torch.tensor([[[True, True, False]]])
    answers = [way(2, mask)(*inputs) for way in (attention.side_by_side, attention.summed)]
    torch.testing.assert_close(*answers)
