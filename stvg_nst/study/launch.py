"""Runs as processes: several at once, each with its log, all ended with the command that started them."""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.folder_lock import locked
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.runs import StudyRun
from stvg_nst.training.divergence import DIVERGED

PROGRAM = (sys.executable, "-m", "stvg_nst")
POLL_SECONDS = 0.1
LAST_WORD_LENGTH = 400
_GPUS = "CUDA_VISIBLE_DEVICES"
GRACE_SECONDS = 10.0
"""What a process is given to end by itself, so that a checkpoint that it is writing is whole."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. ``failure`` is its last word if it failed or diverged, ``None`` if it has left its results."""

    run: StudyRun
    seconds: float
    failure: str | None


class Engine(Protocol):
    """What brings the runs of a study to their end."""

    @property
    def jobs(self) -> int:
        """Runs at once."""

    def outcomes(
        self, runs: Iterable[StudyRun], *, on_start: Callable[[StudyRun], None]
    ) -> Generator[Outcome, None, None]:
        """As of :meth:`Launcher.outcomes`."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """Runs as processes of this machine, and what they share.

    Args:
        jobs: runs at once.
        lock: descriptor of the folder's lock, which the processes hold too; ``None`` on a machine that may be another.
        program: the command that takes a stage's arguments.
        threads: of a run; ``None`` for an even share of the cores.
    """

    jobs: int
    lock: int | None
    program: tuple[str, ...] = PROGRAM
    threads: int | None = None

    def outcomes(
        self, runs: Iterable[StudyRun], *, on_start: Callable[[StudyRun], None]
    ) -> Generator[Outcome, None, None]:
        """Brings every run to its end, in order, and yields each as it ends; a failed one does not stop the others.

        Closing the iterator ends the processes that still work; what they have reached is kept for the next time.

        Args:
            on_start: called as a run starts.
        """
        waiting, working = deque(runs), list[_Process]()
        try:
            while waiting or working:
                while waiting and len(working) < self.jobs:
                    run = waiting.popleft()
                    on_start(run)
                    free = min(set(range(self.jobs)) - {process.slot for process in working})
                    working.append(_Process(self, run, free))
                time.sleep(POLL_SECONDS)
                for process in tuple(working):
                    if (outcome := process.outcome()) is not None:
                        working.remove(process)
                        yield outcome
        finally:
            _end(working)

    def environment(self, slot: int) -> Mapping[str, str]:
        """Of a run in one of the ``jobs`` slots: its share of the cores and, where it is not alone, one of the GPUs."""
        threads = self.threads or max(1, granted_cores() // self.jobs)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
        gpus = visible_gpus() if self.jobs > 1 else ()
        return environment | ({_GPUS: gpus[slot % len(gpus)]} if gpus else {})


def visible_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that a process may use, as ``CUDA_VISIBLE_DEVICES`` names them; torch would take long to ask."""
    named = os.environ.get(_GPUS)
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*")))


# Loaded ahead: between a fork and the new program little is safe.
_C_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _ended_with_parent() -> None:
    """Asks Linux to end this process as soon as the one that started it is gone, whatever that one died of.

    A run that is lost with its worker would hold its folder, and the one that is to go on could not.
    """
    if _C_LIBRARY is not None:
        _C_LIBRARY.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class _Process:
    """A run at work in one of the launcher's slots, one stage after the other."""

    def __init__(self, launcher: Launcher, run: StudyRun, slot: int) -> None:
        self.slot = slot
        self._launcher, self._run, self._stages = launcher, run, deque(run.stages())
        self._start = time.monotonic()
        run.write_config()
        run.failure.unlink(missing_ok=True)
        self._next_stage()

    def _next_stage(self) -> None:
        self._stage = self._stages.popleft()
        for path in self._stage.clears:
            path.unlink(missing_ok=True)
        command = (*self._launcher.program, *self._stage.arguments)
        with self._run.log.open("ab") as log:
            log.write(os.fsencode(f"$ {shlex.join(command)}\n"))
            log.flush()
            self._said_before = log.tell()
            # In a group of its own: a Ctrl-C at the terminal must reach us alone, who then end the whole group.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._launcher.environment(self.slot),
                start_new_session=True,
                pass_fds=() if self._launcher.lock is None else (self._launcher.lock,),
                preexec_fn=_ended_with_parent if self._launcher.lock is None else None,
            )

    def outcome(self) -> Outcome | None:
        """How the run ended; ``None`` while it is running."""
        status = self._process.poll()
        if status is None:
            return None
        failure = None
        if status != 0 or not self._stage.leaves.exists():
            failure = f"{self._stage.arguments[0]} ended with status {status}: {self._last_word()}"
            record = self._run.divergence if status == DIVERGED else self._run.failure
            write_whole(record, failure + "\n")
        elif self._stages:
            self._next_stage()
            return None
        return Outcome(self._run, time.monotonic() - self._start, failure)

    def _last_word(self) -> str:
        """The end of this stage's log, from the last line that speaks of an error, or else its last line."""
        with self._run.log.open("rb") as log:
            log.seek(self._said_before)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        if not lines:
            return f"it said nothing, and left no {self._stage.leaves.name}"
        errors = [index for index, line in enumerate(lines) if "error" in line.lower()]
        return textwrap.shorten(" ".join(lines[errors[-1] if errors else -1 :]), LAST_WORD_LENGTH)

    def wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process and its loader workers."""
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(self._process.pid, number)


def _end(processes: Sequence[_Process]) -> None:
    for process in processes:
        process.signal(signal.SIGTERM)
    try:
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also where an impatient user interrupts the grace
        for process in processes:
            process.signal(signal.SIGKILL)


@contextmanager
def alone_in_study(folder: Path, *, shared: bool = False) -> Iterator[int]:
    """Holds a study's folder for one command at a time; yields the lock's descriptor, to be passed to its processes.

    They hold it too, so that a command that is killed outright is not followed by another while its runs still work.

    Args:
        shared: beside other parts of the study, and not beside a command that runs all of it.

    Raises:
        StudyError: another command holds the folder.
    """
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(locked(folder, shared=shared))
        except BlockingIOError as error:
            raise StudyError(
                f"'{folder}' is in use by another study command, or by runs that one left behind; wait until it ends"
            ) from error
        yield lock


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Makes a polite kill, and a terminal that is closed, end the study's processes as Ctrl-C does.

    What is ignored stays ignored, such as the closing of the terminal under `nohup`.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    replaced = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in replaced:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])
