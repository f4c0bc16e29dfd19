from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stvg_nst.counting import counted
from stvg_nst.training.interruption import Interruption, stopped_by_signals
from stvg_nst.training.stopping import FOREWARNED, INTERRUPTED, TERMINATED, UNFINISHED, StoppedError
from tests.counting import Counting, Numbers, make_trainer

Place = tuple[str, int, int]


def send(number: signal.Signals, *when: Place) -> Callable[[str, int, int], None]:
    """To this process, at these places."""

    def at(*place: Any) -> None:
        if place in when:
            os.kill(os.getpid(), number)

    return at


def fit(folder: Path, module: Counting, checkpoint: Path | None = None, **options: Any) -> None:
    with stopped_by_signals():
        make_trainer(folder, Interruption(), **options).fit(module, datamodule=Numbers(), ckpt_path=checkpoint)


PLACES = [("train", 0, 0), ("train", 1, 1), ("train", 1, 2), ("val", 1, 0), ("val", 1, 1), ("val", 2, 0)]


ENDINGS = [(place, signal.SIGTERM, TERMINATED, "terminated") for place in PLACES]
ENDINGS += [(PLACES[1], signal.SIGUSR1, FOREWARNED, "told that its time is over")]


@pytest.mark.parametrize(("place", "number", "status", "why"), ENDINGS, ids=str)
def test_a_terminated_fit_leaves_a_checkpoint_and_loses_no_step(
    tmp_path: Path, place: Place, number: signal.Signals, status: int, why: str
) -> None:
    whole = Counting()
    fit(tmp_path / "whole", whole)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    first, second = Counting(send(number, place)), Counting()
    with pytest.raises(StoppedError) as stopped:
        fit(tmp_path / "run", first)
    assert stopped.value.code == status
    steps = torch.load(last)["global_step"]
    assert stopped.value.text == (
        f"{why} after {counted(steps, 'step')}; the same command with --ckpt_path last goes on from '{last}'"
    )
    behind = ("val", 1, 0) if place == ("train", 1, 2) else place
    assert first.seen[-1][:3] == behind, "it ends behind the batch that is at work, and behind the last of an epoch"

    fit(tmp_path / "run", second, last)
    trained = [seen[:3] for seen in first.seen + second.seen if seen[0] == "train"]
    assert trained == [seen[:3] for seen in whole.seen if seen[0] == "train"]
    validated = {seen[1] for seen in second.seen if seen[0] == "val"}
    assert validated == set(range(place[1], 3)), "a validation that was left is run again"
    assert [path.name for path in last.parent.glob("last*")] == ["last.ckpt"]


def test_gradients_that_are_gathered_are_followed_before_the_fit_ends(tmp_path: Path) -> None:
    module = Counting(send(signal.SIGTERM, ("train", 0, 0)))
    with pytest.raises(StoppedError, match=str(TERMINATED)) as stopped:
        fit(tmp_path, module, accumulate_grad_batches=2)
    assert [seen[:3] for seen in module.seen] == [("train", 0, 0), ("train", 0, 1)]
    assert "after 1 step" in stopped.value.text


def test_a_signal_at_the_very_end_changes_nothing(tmp_path: Path) -> None:
    module = Counting(send(signal.SIGTERM, ("train", 2, 2)))
    fit(tmp_path, module, limit_val_batches=0)
    assert len(module.seen) == 9


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_fit_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    module = Counting(send(signal.SIGINT, ("train", 1, 0)))
    with pytest.raises(StoppedError) as stopped:
        fit(tmp_path, module)
    assert stopped.value.code == INTERRUPTED
    assert stopped.value.text == "interrupted; the same command with --ckpt_path last goes on from the last checkpoint"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler, "handlers are as they were"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGUSR1, FOREWARNED)],
)
def test_a_test_ends_at_once(tmp_path: Path, number: signal.Signals, status: int) -> None:
    module = Counting(send(number, ("test", 0, 0)))
    with pytest.raises(StoppedError) as stopped, stopped_by_signals():
        make_trainer(tmp_path, Interruption()).test(module, datamodule=Numbers(), verbose=False)
    assert stopped.value.code == status and len(module.seen) == 0


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_time_limit_leaves_a_fit_that_resumes_within_its_epoch(tmp_path: Path) -> None:
    last, module = tmp_path / "checkpoints" / "last.ckpt", Counting()
    with pytest.raises(StoppedError) as stopped:
        fit(tmp_path, module, max_time={"seconds": 0}, min_steps=1)
    assert stopped.value.code == UNFINISHED
    assert stopped.value.text.startswith("stopped before its end, by --trainer.max_time or by a callback, after 1 step")
    again = Counting()
    fit(tmp_path, again, last)
    assert [seen[:3] for seen in again.seen if seen[0] == "train"][:2] == [("train", 0, 1), ("train", 0, 2)]
    assert len([seen for seen in again.seen if seen[0] == "train"]) == 8


def test_a_fit_without_time_for_a_step_is_not_finished_either(tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=str(UNFINISHED)) as stopped:
        fit(tmp_path, Counting(), max_time={"seconds": 0})
    assert "after 0 steps" in stopped.value.text


def test_without_checkpoints_it_says_so(tmp_path: Path) -> None:
    module = Counting(send(signal.SIGTERM, ("train", 0, 0)))
    trainer = make_trainer(tmp_path, Interruption())
    trainer.callbacks = [trainer.callbacks[-1]]
    with pytest.raises(StoppedError) as stopped:
        trainer.fit(module, datamodule=Numbers())
    assert stopped.value.text == "terminated after 1 step; no checkpoint was written, for none is configured"


@pytest.mark.slow
def test_of_several_processes_all_end_when_one_is_told_to(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert process.wait(120) == TERMINATED
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 2
    assert (tmp_path / "1").read_text() == "2", "the second process has ended too, behind the same step"


def _fit_in_two_processes(folder: Path) -> None:
    rank = os.environ.get("LOCAL_RANK", "0")
    module = Counting(send(signal.SIGTERM, ("train", 0, 1)) if rank == "0" else Counting().at)
    try:
        fit(folder, module, devices=2, strategy="ddp", use_distributed_sampler=False)
    finally:
        (folder / rank).write_text(str(module.trainer.global_step))


if __name__ == "__main__":
    _fit_in_two_processes(Path(sys.argv[1]))
