from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.peers import LiveTensors
from stvg_nst.study import read_studies

REPOSITORY = Path(__file__).resolve().parents[2]


def test_memory_is_what_lives_at_once() -> None:
    """A product and a sum of 100 floats each live together; views take nothing, and what comes later is less."""
    weights, live = torch.ones(100), LiveTensors()
    assert live.ignore([weights, weights[:50]]) == 400
    with live:
        product = weights[:100] * 2
        kept = product.view(10, 10)
        del product
        assert live.peak == 400
        total = kept + 1
        del kept
        torch.zeros(50)
        del total
    assert live.peak == 400 + 400


@pytest.mark.slow
def test_a_small_measurement_has_a_row_for_every_method(tmp_path: Path) -> None:
    output = tmp_path / "cost.json"
    sizes = ("--frames", "4", "--clips", "2", "--size", "64", "--repeats", "1")
    command = [sys.executable, "-m", "benchmarks.peers", "--output", str(output), *sizes]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    (study, *_) = read_studies(REPOSITORY / "experiments" / "compare" / "peers.yaml")
    assert set(rows) == {"Zero-shot", *study.points} and rows["Zero-shot"]["inference_ratio"] == 1
    assert "step_ms" not in rows["Zero-shot"] and rows["decoder / LoRA"]["step_ratio"] == 1
    assert rows["both / LoRA"]["step_ratio"] == 1 and rows["whole / Full FT"]["step_ratio"] is None
    assert rows["whole / Full FT"]["step_mib"] > rows["whole / Full FT"]["inference_mib"] > 8  # of weights alone
