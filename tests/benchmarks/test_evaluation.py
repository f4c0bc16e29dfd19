from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_small_measurement_runs_to_its_end() -> None:
    command = [sys.executable, "benchmarks/evaluation.py", "--tubes", "20", "--bootstrap", "5"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert "\n20 tubes, " in shown
    assert re.findall(r"^(\w+) +m_tIoU \d+\.\d\d  m_vIoU \d+\.\d\d$", shown, re.MULTILINE) == [
        "half_open",
        "cgstvg",
        "hcstvg",
        "tubedetr",
    ]
