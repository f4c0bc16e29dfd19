from __future__ import annotations

import re

import pytest

from benchmarks import attention


def stages(shown: str, ways: str) -> list[str]:
    first, second = ways.split()
    return re.findall(rf"^  (forward|and backward) +{first} \d+\.\d ms, {second} \d+\.\d ms: ", shown, re.MULTILINE)


def test_both_ways_are_timed_in_both_stages(capsys: pytest.CaptureFixture[str]) -> None:
    attention.compare_decoder("tiny", (1, 2, 3, 4, 2), repeats=1)
    assert stages(capsys.readouterr().out.replace("side by side", "sides"), "sides summed") == [
        "forward",
        "and backward",
    ]


def test_both_precisions_are_timed_in_both_stages(capsys: pytest.CaptureFixture[str]) -> None:
    attention.compare_precisions("tiny", (1, 2, 3, 4, 2), repeats=1)
    assert stages(capsys.readouterr().out, "bfloat16 single") == ["forward", "and backward"]
