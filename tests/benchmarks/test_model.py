from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.memory import COUNTED, LiveBytes, need

REPOSITORY = Path(__file__).resolve().parents[2]


def test_live_bytes_are_counted_once_and_forgotten_when_they_are_gone() -> None:
    with LiveBytes() as counter:
        kept = torch.zeros(1000)
        view = kept.view(10, 100)[3:]
        gone = kept + 1
        assert (counter.live, counter.peak) == (8000, 8000)
        del gone
        assert counter.restart() == 8000 and counter.live == 4000
        kept = view + 1  # what the view looks at stays
        assert counter.live == counter.peak == 4000 + 2800


def test_live_bytes_hold_what_a_backward_pass_needs() -> None:
    weight = torch.ones(1000, requires_grad=True)
    with LiveBytes() as counter:
        loss = (weight * 2).exp().sum()
        held = counter.live
        loss.backward()
    # The exponential keeps its result, 4,000 bytes; of the gradient nothing but itself is left.
    assert 4000 <= held < 4100 and counter.live <= held + 4000


def test_a_budget_is_drawn_out_from_two_lengths() -> None:
    short, long = COUNTED
    live = {("tuning", length): 2**30 + length * 2**20 for length in (short, long)}
    assert need(live, "tuning", 64) == pytest.approx((1.0, 64 / 1024))


TUBEDETR = ("--model", "experiments/model/tubedetr_mini.yaml", "--scope", "experiments/scope/tubedetr/both.yaml")
STAGES = {"mini": ("ResNet", "VidSwin", "text", "encoder"), "tubedetr": ("ResNet", "text", "encoder")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "options"), [("mini", ("--model", "experiments/model/mini.yaml")), ("tubedetr", TUBEDETR)]
)
def test_a_small_measurement_runs_to_its_end(network: str, options: tuple[str, ...]) -> None:
    sizes = ["--frames", "2", "--size", "128", "128", "--budget-size", "128", "128", "--clips", "1", "--repeats", "1"]
    command = [
        sys.executable,
        "-m",
        "benchmarks.model",
        *options,
        "--device",
        "cpu",
        *sizes,
    ]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"^\| 1 x 2 x 128 x 128, (fp32|bf16) \|", shown, re.MULTILINE)) == 4
    columns = " | ".join(f"{stage} s" for stage in (*STAGES[network], "decoders", "all"))
    assert f"| clips x T x H x W | {columns} | peak GiB |" in shown
    assert len(re.findall(r"^\| clips on \d+ GB, (fp32|bf16) \| [1-9]", shown, re.MULTILINE)) == 8
