from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_small_measurement_has_a_row_for_every_method(tmp_path: Path) -> None:
    output = tmp_path / "cost.json"
    sizes = ("--frames", "4", "--clips", "2", "--size", "64", "--repeats", "1")
    command = [sys.executable, "-m", "benchmarks.peers", "--output", str(output), *sizes]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert len(rows) == 23 and rows["Zero-shot"]["inference_ratio"] == 1
    assert "step_ms" not in rows["Zero-shot"] and rows["decoder / LoRA"]["step_ratio"] == 1
    assert rows["whole / Full FT"]["step_mib"] > rows["whole / Full FT"]["inference_mib"] > 8  # of weights alone
