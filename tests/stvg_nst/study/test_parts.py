"""A study in parts: one shell command for each run that is missing, by hand, by a shell or by a scheduler."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.machine.folder_lock import locked
from stvg_nst.report import study as reporting
from stvg_nst.study import StudyError, command, launch
from stvg_nst.study.launch import alone_in_study

Write = Callable[..., Path]


@pytest.fixture
def study(tmp_path: Path, program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reporting, "draw_study", lambda findings, *paths: None)
    monkeypatch.chdir(tmp_path)

    def run(path: Path, *options: str) -> int:
        arguments = [str(path), "--runs", "runs", *options]
        return command.study_command(arguments, prog="study", report=reporting.report_study, program=program)

    return run


def parts(said: str) -> list[str]:
    return [line.rpartition(" --part ")[2] for line in said.splitlines()]


def test_the_baseline_comes_first_and_results_are_picked_up(
    study: Any, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(seeds=[0])
    assert study(path, "--emit") == 0
    said = capsys.readouterr()
    assert parts(said.out) == ["zero-shot"]
    assert "1 command; 2 more once their baselines are there" in " ".join(said.err.split())
    with pytest.raises(StudyError, match=r"rank 4, seed 0 is compared with zero-shot, which is not there yet"):
        study(path, "--part", "rank-4-seed0")
    assert study(path, "--part", "zero-shot") == 0
    capsys.readouterr()
    assert study(path, "--emit") == 0 and parts(capsys.readouterr().out) == ["rank-4-seed0", "rank-8-seed0"]
    assert study(path, "--part", "rank-8-seed0") == 0
    capsys.readouterr()
    assert study(path, "--emit") == 0 and parts(capsys.readouterr().out) == ["rank-4-seed0"]
    assert study(path) == 0, "the study runs what is left, and reports on all"
    assert study(path, "--part", "rank-4-seed0") == 0, "there is nothing left to do"
    capsys.readouterr()
    assert study(path, "--emit") == 0 and capsys.readouterr().out == ""


def test_a_line_is_a_command_of_a_shell(
    study: Any, write: Write, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a b"
    path = write(seeds=[0]).rename(tmp_path / "my study.yaml")
    assert study(path, "--emit", "--data", str(folder), "--only", "rank *", "--seeds", "0") == 0
    (line,) = capfd.readouterr().out.splitlines()
    ended = subprocess.run(
        line.replace(" study ", " study --help #", 1), shell=True, cwd="/", capture_output=True, text=True
    )
    words = line.split(" && ")[1]
    assert line.startswith(f"cd {tmp_path} && {sys.executable} -m stvg_nst study '{path}' --runs runs")
    assert f"--data '{folder}' --seeds 0 --only 'rank *' --part zero-shot" in words and ended.returncode == 0


def test_a_part_takes_as_many_threads_as_it_is_told(
    study: Any, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not know how many others work beside it."""
    monkeypatch.setattr(launch, "granted_cores", lambda: 8)
    path, calls = write(seeds=[0]), tmp_path / "runs" / "zero-shot" / "calls"
    for said, given in (("3", "3"), ("", "8")):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert study(path, "--part", "zero-shot") == 0
        assert calls.read_text().split()[1] == given
        shutil.rmtree(calls.parent)


def test_a_part_that_fails_or_diverges_says_so_by_its_status(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"bad": {"trainer.act": "die"}, "wild": {"trainer.act": "diverge"}}
    path = write(points=points, seeds=[0])
    assert study(path, "--part", "zero-shot") == 0
    assert study(path, "--part", "bad-seed0") == 1 and study(path, "--part", "wild-seed0") == 3
    said = capsys.readouterr().err
    assert "failed: bad, seed 0: fit ended with status 1" in said and "diverged: wild, seed 0" in said
    assert study(path, "--emit") == 0 and parts(capsys.readouterr().out) == ["bad-seed0"], "it would diverge again"
    assert study(path, "--part", "wild-seed0") == 3


def test_parts_work_beside_each_other_and_not_beside_the_whole(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = write(seeds=[0]), tmp_path / "runs"
    with alone_in_study(runs, shared=True):
        assert study(path, "--part", "zero-shot") == 0
        with pytest.raises(StudyError, match="is in use by another study command"):
            study(path)
    with alone_in_study(runs), pytest.raises(StudyError, match="is in use by another study command"):
        study(path, "--part", "rank-4-seed0")
    with locked(runs / "rank-4-seed0"):
        capsys.readouterr()
        assert study(path, "--emit") == 0
        said = capsys.readouterr()
        assert parts(said.out) == ["rank-8-seed0"] and "1 run at work" in said.err
        with pytest.raises(StudyError, match="another command works on rank 4, seed 0"):
            study(path, "--part", "rank-4-seed0")


def test_an_unknown_part_is_refused(study: Any, write: Write) -> None:
    with pytest.raises(StudyError, match=r"has no run 'rank-5-seed0' in 'runs'; --emit lists those"):
        study(write(), "--part", "rank-5-seed0")


WORKER = """\
import sys
import time
from pathlib import Path
from stvg_nst.study.definition import read_studies
from stvg_nst.study.launch import Launcher
from stvg_nst.study.runs import planned_runs

study, runs, *program = sys.argv[1:]
_, (run, *_) = planned_runs(read_studies(Path(study))[0], Path(runs))
[*Launcher(1, None, tuple(program)).outcomes([run], on_start=lambda started: None)]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_run_without_a_lock_ends_with_a_worker_that_is_killed(
    write: Write, program: tuple[str, ...], tmp_path: Path
) -> None:
    """It would hold the folder of the run, and whoever is to go on with it could not."""
    path, pid_file = (
        write(points={"slow": {"trainer.act": "hang"}}, seeds=[0]),
        tmp_path / "runs" / "slow-seed0" / "pid",
    )
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(path), str(tmp_path / "runs"), *program])
    try:
        await_that(lambda: pid_file.exists() and pid_file.read_text() != "")
    finally:
        worker.kill()
        worker.wait()
    process = Path("/proc") / pid_file.read_text() / "stat"
    await_that(lambda: not process.exists() or process.read_text().rpartition(") ")[2][0] == "Z", seconds=10)


def await_that(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
