from __future__ import annotations

import re

import pytest

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
