"""The parts of the GPU benchmark, each measured in a process of its own.

The process begins here and not in ``__main__``: what is spawned does not import a package's main module again.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.gpu.grounding import measure_inference, measure_tuning
from benchmarks.gpu.kernels import measure_kernels
from benchmarks.gpu.memory import measure_memory
from benchmarks.gpu.options import measure_options
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.report import Printed, Report, Value
from benchmarks.gpu.stages import measure_stages

PARTS: dict[str, Callable[[Plan, Report], None]] = {
    "stages": measure_stages,
    "memory": measure_memory,
    "tuning": measure_tuning,
    "inference": measure_inference,
    "options": measure_options,
    "kernels": measure_kernels,
}


def measured(part: str, plan: Plan, limit: float) -> dict[str, Any]:
    """What a part finds in a process of its own until ``limit`` seconds are over; ``ended`` says why it ended early."""
    print(f"\n## {part}")
    printed, start = Printed(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(part, plan, theirs))
    process.start()
    theirs.close()
    ended = ""
    try:
        while not ended:
            if ours.poll(max(0.0, start + limit - time.monotonic())):
                what, *arguments = ours.recv()
                getattr(printed, what)(*arguments)
            else:
                ended = f"after {limit / 60:g} minutes"
    except EOFError:  # it has closed its end
        process.join()
        ended = f"with the exit code {process.exitcode}" if process.exitcode else ""
    else:
        process.terminate()
        process.join()
    if ended:
        printed.note(f"'{part}' ended {ended}: what stands above is all that it measured")
    return {"tables": printed.tables, "notes": printed.notes, "seconds": time.monotonic() - start, "ended": ended}


@dataclass(frozen=True)
class Sent:
    """A report that another process prints."""

    connection: Connection

    def table(self, title: str, columns: Sequence[str]) -> None:
        self.connection.send(("table", title, columns))

    def row(self, name: str, values: Mapping[str, Value]) -> None:
        self.connection.send(("row", name, values))

    def note(self, text: str) -> None:
        self.connection.send(("note", text))


def _work(part: str, plan: Plan, connection: Connection) -> None:
    PARTS[part](plan, Sent(connection))
    connection.close()
