"""The runs of a study as tasks of Ray, on one machine or on a cluster whose nodes share their storage."""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stvg_nst.machine.whole_files import write_whole
from stvg_nst.study.launch import GRACE_SECONDS, Launcher, Outcome
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.runs import StudyRun

WAIT_SECONDS = 0.5
_REACH_SECONDS = 10.0
RETRIES = 3
"""How often a run goes on elsewhere whose worker or node was lost. A run that fails by itself is not begun again."""


@dataclass(frozen=True, slots=True)
class RayEngine:
    """Brings runs to their end on what a Ray cluster has; :func:`connected` makes it.

    A run is a task with the cores and GPUs that it asks for. It works in the folder of the command, which all nodes see
    under the same name.

    Args:
        ray: the module, connected.
        launcher: what a task brings its run to its end by.
        cpus, gpus: that a run takes.
    """

    ray: Any
    launcher: Launcher
    cpus: int
    gpus: float

    @property
    def jobs(self) -> int:
        """Runs that the cluster, as it is now, can work on at once."""
        there = self.ray.cluster_resources()
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return max(1, min(int(there.get(name, 0) / count) for name, count in wanted.items() if count))

    def outcomes(
        self, runs: Iterable[StudyRun], *, on_start: Callable[[StudyRun], None]
    ) -> Generator[Outcome, None, None]:
        """As of :class:`Launcher`: each outcome as it comes. Closing the iterator ends the tasks that still work."""
        kind = self.ray.remote(_bring_to_end)
        task = kind.options(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES)
        waiting, working = deque(runs), dict[Any, StudyRun]()
        try:
            while waiting or working:
                while waiting and len(working) < self.jobs:
                    run = waiting.popleft()
                    on_start(run)
                    working[task.remote(run, self.launcher, str(Path.cwd()))] = run
                done, _ = self.ray.wait([*working], num_returns=1, timeout=WAIT_SECONDS)
                for reference in done:
                    yield self._outcome(reference, working.pop(reference))
        finally:
            self._end([*working])

    def _outcome(self, reference: Any, run: StudyRun) -> Outcome:
        try:
            seconds, failure = self.ray.get(reference)
            return Outcome(run, seconds, failure)
        except self.ray.exceptions.RayTaskError as error:
            failure = f"its task failed: {type(error.cause).__name__}: {error.cause}"
        except self.ray.exceptions.RayError as error:
            failure = f"it was lost {RETRIES + 1} times: {str(error).strip().partition(os.linesep)[0]}"
        write_whole(run.failure, failure + "\n")  # the task itself could not
        return Outcome(run, 0.0, failure)

    def _end(self, references: list[Any]) -> None:
        for reference in references:
            self.ray.cancel(reference, force=False)  # as Ctrl-C, so that a task ends its process
        if references:
            self.ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS + 5)


def _bring_to_end(run: StudyRun, launcher: Launcher, place: str) -> tuple[float, str | None]:
    """In a process of Ray: seconds, and the last word of a run that failed."""
    os.chdir(place)
    if run.finished or run.diverged:  # by a worker that was lost after its last word
        return 0.0, run.why_failed if run.diverged else None
    (outcome,) = launcher.outcomes([run], on_start=lambda started: None)
    return outcome.seconds, outcome.failure


def _reach(address: str | None) -> None:
    """Tries to reach a cluster, for Ray would try for minutes.

    Raises:
        OSError, ValueError: nothing answers there, or it is no address.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host, int(port)), timeout=_REACH_SECONDS).close()


@contextmanager
def connected(launcher: Launcher, *, address: str | None, cpus: int, gpus: float) -> Iterator[RayEngine]:
    """An engine on a cluster, or on this machine, for as long as the block lasts.

    Args:
        launcher: of one run.
        address: of the cluster, ``auto`` for the one that this machine belongs to, ``None`` for this machine alone.

    Raises:
        StudyError: Ray is not installed, the cluster is not reached, or no node can hold a run.
    """
    try:
        import ray
    except ImportError as error:
        raise StudyError("--engine ray needs Ray: pip install 'ray>=2.40', or install the extra `ray`") from error
    # Left unsaid, Ray would join whatever cluster this machine belongs to, or RAY_ADDRESS names.
    place: dict[str, Any] = (
        {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    )
    try:
        _reach(address)
        ray.init(**place, logging_level=logging.WARNING, log_to_driver=False)
    except (OSError, ValueError) as error:
        said = str(error).strip().partition("\n")[0]
        raise StudyError(f"there is no Ray cluster at '{address}' ({said}); begin one by `ray start --head`") from error
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            raise StudyError(
                f"a run asks for {cpus} cores and {gpus:g} GPUs, and no node of the cluster has so many; lower "
                "--cpus-per-run or --gpus-per-run"
            )
        yield RayEngine(ray, replace(launcher, threads=cpus), cpus, gpus)
    finally:
        ray.shutdown()
