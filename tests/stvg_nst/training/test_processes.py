"""A training of two processes of which one is lost: the other says so, and neither is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import distributed_c10d

LOST = "error: another process of this training is gone, or stands still"
PATIENCE = 15.0  # seconds that a collective waits, once all have met, in place of the overlay's half an hour


def run_two(folder: Path, task: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Trains until the task does its harm, and how long the first process went on behind that."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, __file__, str(folder), task], capture_output=True, text=True, env=environment, timeout=600
    )
    return ended, time.time() - (folder / "harm").stat().st_mtime


def is_left_over(folder: Path) -> bool:
    """Whether the second process is still there, a moment later."""
    number = int((folder / "second").read_text())
    for _ in range(100):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.slow
def test_when_a_process_is_killed_the_first_one_says_so_and_ends(tmp_path: Path) -> None:
    ended, seconds = run_two(tmp_path, "kill second")
    assert ended.returncode == 1 and LOST in ended.stderr, ended.stderr
    assert seconds < 60 and not is_left_over(tmp_path)


@pytest.mark.slow
def test_when_a_process_hangs_the_first_one_ends_it_after_the_time_that_was_set(tmp_path: Path) -> None:
    ended, seconds = run_two(tmp_path, "stop second")
    assert ended.returncode == 1 and LOST in ended.stderr, ended.stderr
    assert seconds > PATIENCE - 5 and not is_left_over(tmp_path)


@pytest.mark.slow
def test_when_the_first_process_is_killed_no_other_outlives_it(tmp_path: Path) -> None:
    ended, _ = run_two(tmp_path, "kill first")
    assert ended.returncode == -signal.SIGKILL and not is_left_over(tmp_path)


@pytest.mark.slow
def test_a_process_that_fails_says_why_itself(tmp_path: Path) -> None:
    ended, _ = run_two(tmp_path, "fail second")
    assert ended.returncode == 1 and "error: '/data': No space left on device" in ended.stderr, ended.stderr
    assert not is_left_over(tmp_path)


def _harm(folder: Path, task: str) -> Callable[..., None]:
    how, whom = task.split()
    rank = os.environ.get("LOCAL_RANK", "0")

    def at(*place: Any) -> None:
        if place == ("train", 0, 0):
            distributed_c10d._set_pg_timeout(timedelta(seconds=PATIENCE))
        if place != ("train", 0, 1):
            return
        if (whom == "second") != (rank == "1"):
            if whom == "first":
                time.sleep(600)  # loads a batch, and hears nothing of the other one
            return
        (folder / "harm").touch()
        if how == "fail":
            raise OSError(28, "No space left on device", "/data")
        os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    return at


def _train(folder: Path, task: str) -> int:
    from stvg_nst.command_line.failures import Failures
    from stvg_nst.commands.run import stoppable
    from stvg_nst.training.interruption import Interruption
    from stvg_nst.training.processes import LastWords, ended_with_parent
    from tests.counting import Counting, Numbers, make_trainer

    if os.environ.get("LOCAL_RANK") == "1":
        (folder / "second").write_text(str(os.getpid()))
    with Failures() as failures, ended_with_parent(), stoppable():
        options: dict[str, Any] = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False}
        trainer = make_trainer(folder, LastWords(), Interruption(), **options)
        trainer.fit(Counting(_harm(folder, task)), datamodule=Numbers())
    return failures.status


if __name__ == "__main__":
    sys.exit(_train(Path(sys.argv[1]), sys.argv[2]))
