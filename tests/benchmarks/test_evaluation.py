from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def measured(*options: str) -> str:
    command = [sys.executable, "benchmarks/evaluation.py", *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout


def test_a_small_measurement_runs_to_its_end() -> None:
    shown = measured("--tubes", "20", "--bootstrap", "5")
    assert "  in all, 20 tubes with " in shown
    assert re.findall(r"^(\w+) +m_tIoU \d+\.\d\d  m_vIoU \d+\.\d\d$", shown, re.MULTILINE) == [
        "half_open",
        "cgstvg",
        "hcstvg",
        "tubedetr",
    ]


@pytest.mark.slow
def test_the_test_split_of_vidstg_is_evaluated_in_five_seconds() -> None:
    seconds = re.search(r"([\d.]+) s  in all, 10303 tubes", measured("--bootstrap", "0"))
    assert seconds is not None and float(seconds[1]) < 5, seconds
