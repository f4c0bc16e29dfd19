from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import parts
from benchmarks.gpu.kernels import best_seconds
from benchmarks.gpu.peaks import Peaks
from benchmarks.gpu.plan import Plan, attempted, peak_gib
from benchmarks.gpu.report import Printed, Report
from benchmarks.gpu.stages import limit, measure_stages
from benchmarks.gpu.throughput import write_throughput
from benchmarks.stages import DECODERS, MODULES
from benchmarks.timing import OUT_OF_MEMORY, Timing, timed
from benchmarks.work import WorkCounter
from stvg_nst.commands.workload import read_throughput

REPOSITORY = Path(__file__).resolve().parents[2]
EXPERIMENTS = REPOSITORY / "experiments"
PLAN = Plan(
    EXPERIMENTS / "model/mini.yaml",
    EXPERIMENTS / "tuner/nst.yaml",
    EXPERIMENTS / "tuner/full.yaml",
    device="cpu",
    precisions=("fp32",),
    clips=1,
    lengths=(2,),
    height=64,
    width=64,
    repeats=1,
)


@pytest.mark.slow
def test_nothing_that_reads_films_is_imported() -> None:
    """A machine with a GPU need not have it."""
    program = "import sys, benchmarks.gpu.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    unwanted = {"av", "decord", "albumentations", "cv2", "lightning", "datamodules", "callbacks", "matplotlib", "rich"}
    assert not unwanted & {*done.stdout.split()}


def table_of(**milliseconds: float | str) -> dict[str, object]:
    return {"rows": [{"name": name, "whole ms": value} for name, value in milliseconds.items()]}


def test_what_a_card_does_in_a_second_is_what_workload_reads(tmp_path: Path) -> None:
    plan, file = replace(PLAN, device="cuda", clips=4, lengths=(32, 64)), tmp_path / "throughput.yaml"
    short, steps = table_of(LoRA=1.0, NST=1.0, frozen=1.0), table_of(LoRA=400.0, NST=500.0)
    parts = {"tuning": {"tables": [short, steps]}, "inference": {"tables": [short, table_of(frozen=100.0, NST=150.0)]}}
    write_throughput(file, "NVIDIA H100", parts, plan)
    assert read_throughput(file) == {"device": "NVIDIA H100", "training": 8.0, "inference": 40.0}
    file.unlink()
    early = parts | {"inference": {"tables": [short]}}
    assert "inference at 64 frames were not" in write_throughput(file, "NVIDIA H100", early, plan)
    too_small = parts | {"tuning": {"tables": [short, table_of(NST=OUT_OF_MEMORY)]}}
    assert "training at 64 frames were not" in write_throughput(file, "NVIDIA H100", too_small, plan)
    assert "this is no GPU" in write_throughput(file, "CPU", parts, replace(plan, device="cpu"))
    assert not file.exists()


def test_work_is_counted_by_its_operations_and_its_traffic() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with torch.no_grad(), WorkCounter() as counter:
        counter.stage = "layer"
        layer(x).view(8)
        counter.stage = "sum"
        x.expand(3, 2, 8).sum()
    layer_work, total = counter.work["layer"], counter.work["sum"]
    assert layer_work.flops == 2 * 2 * 8 * 4 and total.flops == 0
    # Inputs, weights, bias and outputs; what is expanded lies in memory once.
    assert layer_work.traffic == 4 * (2 * 8 + 4 * 8 + 4 + 2 * 4) and total.traffic == 4 * (2 * 8 + 1)


def test_the_floor_of_work_is_what_limits_each_call() -> None:
    with torch.no_grad(), WorkCounter() as counter:
        torch.ones(64, 64) @ torch.ones(64, 64)
        torch.ones(1000) + 1
    peaks = Peaks({"fp32": 1000.0}, bandwidth=1e4)
    compute, traffic = peaks.floor(counter.work[""], "fp32")
    assert compute == pytest.approx(2 * 64**3 / 1000)
    assert traffic == pytest.approx((4 * (2 * 64 * 64 + 1000) + 2 * 4 * 1000) / 1e4)  # two of ones, and a sum


@pytest.mark.parametrize(
    ("seconds", "compute", "traffic", "found"),
    [(1.0, 0.6, 0.1, "compute"), (1.0, 0.1, 0.6, "memory traffic"), (1.0, 0.1, 0.1, "neither")],
)
def test_what_limits_a_stage_is_named(seconds: float, compute: float, traffic: float, found: str) -> None:
    assert limit(seconds, compute, traffic) == found


def test_kernels_alone_are_timed_as_often_as_they_are_called() -> None:
    images = torch.randn(1, 3, 16, 16)
    bias = torch.randn(1, 4, 1).expand(1, 4, 4)
    with torch.no_grad(), WorkCounter() as counter:
        for _ in range(3):
            nn.functional.conv2d(images, torch.ones(2, 3, 3, 3))
        torch.baddbmm(bias, torch.ones(1, 4, 4), torch.ones(1, 4, 4))
    assert sorted(times for call, times in counter.work[""].calls.items() if call.flops) == [1, 3]
    assert 0 < best_seconds(counter.work[""], "cpu") < 1


def test_work_that_does_not_fit_has_a_fault_and_the_others_their_seconds() -> None:
    def fails() -> None:
        raise torch.OutOfMemoryError("no")

    timings = timed({"fails": fails, "works": lambda: None}, repeats=2)
    assert timings["fails"] == Timing((), OUT_OF_MEMORY) and len(timings["works"].seconds) == 2
    assert attempted(lambda: [("a", {})] if fails() else [], "a", "ms") == [("a", {"ms": OUT_OF_MEMORY})]


def test_the_spread_is_of_the_middle_half() -> None:
    assert Timing((1.0, 2.0, 3.0, 4.0, 100.0)).spread == pytest.approx(2 / 3)
    assert Timing((1.0,)).spread == 0.0


def test_a_peak_holds_what_is_there_and_what_is_made() -> None:
    held = torch.ones(2**20)
    assert peak_gib(lambda: (held * 2).sum(), "cpu", [held, held[1:]]) == pytest.approx(2**23 / 2**30, rel=1e-3)


def test_stages_have_rows_in_every_precision(capsys: pytest.CaptureFixture[str]) -> None:
    report = Printed()
    measure_stages(replace(PLAN, precisions=("fp32", "bf16")), report)
    (table,) = report.tables
    rows = {row["name"]: row for row in table["rows"]}
    assert [*rows] == [
        f"1 x 2 x 64 x 64, {precision}, {stage}"
        for precision in ("fp32", "bf16")
        for stage in (*MODULES, DECODERS, "all")
    ]
    assert all(row["ms"] > 0 and row["MFU"] > 0 and row["of floor"] > 0 for row in rows.values())
    assert "| 1 x 2 x 64 x 64, bf16, all |" in capsys.readouterr().out


def test_a_part_that_takes_too_long_or_fails_is_ended_and_keeps_its_rows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fork = multiprocessing.get_context("fork")  # which need not import everything anew
    monkeypatch.setattr(parts.multiprocessing, "get_context", lambda _: fork)

    def sleeps(plan: Plan, report: Report) -> None:
        report.table("t", ["ms"])
        report.row("a", {"ms": 1.0})
        time.sleep(60)

    def fails(plan: Plan, report: Report) -> None:
        report.note("a line")
        raise SystemExit(3)

    monkeypatch.setitem(parts.PARTS, "stages", sleeps)
    monkeypatch.setitem(parts.PARTS, "memory", fails)
    found = parts.measured("stages", PLAN, limit=0.6)
    assert found["ended"] == "after 0.01 minutes"
    assert found["tables"] == [{"title": "t", "columns": ["ms"], "rows": [{"name": "a", "ms": 1.0}]}]
    assert "'stages' ended after 0.01 minutes" in capsys.readouterr().out
    found = parts.measured("memory", PLAN, limit=60.0)
    assert found["ended"] == "with the exit code 3" and found["notes"][0] == "a line"


@pytest.mark.gpu
@pytest.mark.parametrize("part", parts.PARTS)
def test_a_part_runs_on_a_card(part: str) -> None:
    report = Printed()
    parts.PARTS[part](replace(PLAN, device="cuda", precisions=("tf32", "bf16", "fp16"), clips=2), report)
    assert all(OUT_OF_MEMORY not in row.values() for table in report.tables for row in table["rows"])
    assert report.tables


@pytest.mark.slow
def test_all_parts_run_to_their_end_and_are_written(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--output", str(output)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    shown = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True).stdout
    content = json.loads(output.read_text())
    assert content["remark"] == gpu.NOT_A_GPU and gpu.NOT_A_GPU in shown
    assert [*content["parts"]] == [*parts.PARTS]
    assert all(part["ended"] == "" and part["tables"] for part in content["parts"].values())
