from __future__ import annotations

import sys

import pytest

from benchmarks import encodings


def test_a_small_measurement_prints_both_ways_and_what_is_saved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = ["--frames", "4", "--clips", "2", "--size", "64", "--repeats", "1"]
    monkeypatch.setattr(sys, "argv", ["encodings", *sizes])
    encodings.main()
    rows = {line[:16].strip(): line[16:].split() for line in capsys.readouterr().out.splitlines()[2:]}
    assert list(rows) == ["encoded anew", "kept encodings", "saved, times"]
    assert all(float(number) > 0 for number in rows["saved, times"])
