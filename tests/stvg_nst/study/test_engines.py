"""What every engine of a study keeps to: processes here, and tasks of Ray, also where a node of its cluster is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.report import study as reporting
from stvg_nst.study import StudyError, command, launch

Write = Callable[..., Path]
SLOW = {"trainer.act": "hang", "model.tuner.init_args.rank": 8}

pytestmark = pytest.mark.slow  # a cluster takes its time


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, ...]]:
    """Options of a study."""
    if request.param == "local":
        yield ("--jobs", "2")
        return
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    yield ("--engine", "ray", "--cpus-per-run", "1")
    assert not ray.is_initialized(), "the study leaves nothing behind"


@pytest.fixture
def study(tmp_path: Path, program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(reporting, "draw_study", lambda findings, *paths: None)

    def run(path: Path, *options: str) -> int:
        arguments = [str(path), "--runs", str(tmp_path / "runs"), *options]
        return command.study_command(arguments, prog="study", report=reporting.report_study, program=program)

    return run


def stages(folder: Path) -> dict[str, list[str]]:
    return {
        path.parent.name: [line.split()[0] for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*/calls"))
    }


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(") ")[2][0] != "Z"


def test_a_failed_and_a_diverged_run_stop_no_other(
    engine: tuple[str, ...], study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"bad": {"trainer.act": "die"}, "wild": {"trainer.act": "diverge"}, "good": {}}
    assert study(write(points=points, seeds=[0, 1]), *engine) == 1
    runs = tmp_path / "runs"
    assert stages(runs) == {
        "zero-shot": ["test"],
        **{f"{name}-seed{seed}": calls for seed in (0, 1) for name, calls in (("bad", ["fit"]), ("wild", ["fit"]))},
        **{f"good-seed{seed}": ["fit", "test"] for seed in (0, 1)},
    }
    assert "ended with status 1: ValueError: rank must be positive" in (runs / "bad-seed0" / "failure.txt").read_text()
    assert (runs / "wild-seed1" / "diverged.txt").exists() and (runs / "study.csv").exists()
    said = capsys.readouterr().out
    assert "failed: bad, seed 0" in said and "diverged: wild, seed 1" in said and "finished: good, seed 1" in said


def test_an_interruption_ends_all_and_the_same_command_goes_on(
    engine: tuple[str, ...], study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = write(points={"good": {}, "slow": SLOW}, seeds=[0]), tmp_path / "runs"

    def interrupt() -> None:
        while not ((runs / "slow-seed0" / "checkpoints").exists() and (runs / "good-seed0" / "results.json").exists()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert study(path, *engine) == 130
    assert "the same command goes on from there" in capsys.readouterr().out
    assert not (runs / "slow-seed0" / "failure.txt").exists(), "it was stopped, it did not fail"
    with launch.alone_in_study(runs):  # which a local process that still works would hold
        pass
    assert study(path, *engine) == 0, "it hangs once only"
    assert stages(runs)["slow-seed0"] == ["fit", "fit", "test"] and stages(runs)["good-seed0"] == ["fit", "test"]


def test_the_run_of_a_lost_node_is_done_again_on_another(
    study: Any, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        lost = cluster.add_node(num_cpus=1)
        path, runs = (
            write(points={"one": SLOW, "two": {**SLOW, "model.tuner.init_args.rank": 2}}, seeds=[0]),
            tmp_path / "runs",
        )
        gone: list[int] = []

        def kill() -> None:
            while len(pids := [*runs.glob("*/pid")]) < 2 or not all(path.read_text() for path in pids):
                time.sleep(0.05)  # until there is one run on each node
            cluster.remove_node(lost, allow_graceful=False)
            deadline = time.monotonic() + 20
            while not gone and time.monotonic() < deadline:
                gone.extend(pid for path in pids if not is_alive(pid := int(path.read_text())))
                time.sleep(0.05)

        threading.Thread(target=kill, daemon=True).start()
        options = ("--engine", "ray", "--address", cluster.address, "--cpus-per-run", "1")
        assert study(path, *options) == 0
    finally:
        cluster.shutdown()
    calls = stages(runs)
    assert len(gone) == 1, "a process ends with its worker, or it would hold the folder of its run"
    assert sorted(map(len, (calls["one-seed0"], calls["two-seed0"]))) == [2, 3]
    assert ["fit", "fit", "test"] in (calls["one-seed0"], calls["two-seed0"])


def test_what_no_node_can_hold_is_refused(study: Any, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    with pytest.raises(
        StudyError, match="a run asks for 4096 cores and 0 GPUs, and no node of the cluster has so many"
    ):
        study(write(), "--engine", "ray", "--cpus-per-run", "4096")
    with pytest.raises(StudyError, match=r"there is no Ray cluster at '127\.0\.0\.1:1'"):
        study(write(), "--engine", "ray", "--address", "127.0.0.1:1")
