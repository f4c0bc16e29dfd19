from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_measurement_runs_to_its_end() -> None:
    command = [sys.executable, "benchmarks/data.py", "--seconds", "2", "--clips", "2", "--repetitions", "1"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    rows = [re.split(r" *│ *", line.strip("│ ")) for line in shown.splitlines() if line.startswith("│")]
    numbers = {name: [float(value) for value in values if value] for name, *values in rows if name}
    assert {
        "decode the frames",
        "read them from the cache",
        "transform",
        "motion_blur",
        "1 worker",
        "2 workers",
        "a cached clip",
    } <= set(numbers)
    before, short, long = numbers["a clip, degraded and resized"]
    assert before < short and long < 1.3 * short
