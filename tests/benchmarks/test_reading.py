from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_all_that_was_written_is_read() -> None:
    command = [sys.executable, "-m", "benchmarks.reading", "--films", "1", "--repetitions", "1"]
    shown = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    rows = [re.split(r" *│ *", line.strip("│ ")) for line in shown.splitlines() if line.startswith("│")]
    numbers = {name: [float(value) for value in values] for name, *values in rows}
    assert {"sentences", "with the boxes of their targets"} <= set(numbers)
    (few_bytes, _), (many_bytes, _) = numbers["MiniSTVG"], numbers["64 frames of 420 x 588"]
    assert few_bytes < 1 and many_bytes > 90
