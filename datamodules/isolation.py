"""Calls in processes of their own, which may hang or crash without harm to the others."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

# Not a fork of this process: it has threads, whose locks a fork would copy in whatever state they are.
_CONTEXT = get_context("forkserver")


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that did not come back: why."""

    cause: str


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: int | None = None  # None: it has not reported for duty yet
    deadline: float = inf

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


class IsolatedCalls(Generic[Task, Result]):
    """Calls a function on tasks, several at a time; a call that takes too long or kills its process is a failure.

    Args:
        function: importable by name, as the processes do not share memory with this one.
        workers: processes.
        time_limit: seconds for one call.
    """

    def __init__(self, function: Callable[[Task], Result], *, workers: int, time_limit: float) -> None:
        if workers < 1 or time_limit <= 0:
            raise ValueError(f"expected at least one worker and a positive time limit, got {workers} and {time_limit}")
        self._function, self._num_workers, self._time_limit = function, workers, time_limit
        # The server imports once what its processes then have from their first moment on.
        _CONTEXT.set_forkserver_preload([__name__, function.__module__])

    def __call__(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Result | Failure]]:
        """The index of each task and its result, in the order in which they finish.

        Raises:
            RuntimeError: a process ended before it took its first task.
        """
        waiting = list(range(len(tasks)))[::-1]
        workers = [self._start() for _ in range(min(self._num_workers, len(tasks)))]
        try:
            while workers:
                patience = min(worker.deadline for worker in workers) - time.monotonic()
                ready = wait([worker.connection for worker in workers], None if patience == inf else max(0.0, patience))
                for worker in list(workers):
                    finished, message = self._message(worker, worker.connection in ready)
                    if not finished:
                        continue
                    if worker.task is not None:
                        yield worker.task, message
                    if isinstance(message, Failure):
                        worker.stop()
                        workers.remove(worker)
                        if waiting:
                            workers.append(self._start())
                    elif waiting:
                        worker.task = waiting.pop()
                        worker.deadline = time.monotonic() + self._time_limit
                        # A process that died just now is found out when its answer is read.
                        with suppress(BrokenPipeError):
                            worker.connection.send(tasks[worker.task])
                    else:
                        worker.stop()
                        workers.remove(worker)
        finally:
            for worker in workers:
                worker.stop()

    def _start(self) -> _Worker:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(self._function, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _message(self, worker: _Worker, ready: bool) -> tuple[bool, Any]:
        """Whether a worker has something to say or is overdue, and what."""
        if not ready:
            overdue = time.monotonic() >= worker.deadline
            return overdue, Failure(f"takes longer than {self._time_limit:g} seconds") if overdue else None
        try:
            return True, worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            code = worker.process.exitcode or 0
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
            if worker.task is None:
                raise RuntimeError(f"a worker process ended {how} before its first task; its output says why") from None
            return True, Failure(f"kills the process that reads it, {how}")


def _serve(function: Callable[[Task], Result], connection: Connection) -> None:
    # An interruption from the keyboard reaches all processes; ours is to end when the other end of the pipe does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection.send(None)
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, BrokenPipeError):
        return
