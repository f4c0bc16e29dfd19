"""How long work takes: on a CPU, in seconds of the processor, which a busy machine does not stretch; else of the clock.

Work on a card is asynchronous. Events on its own time line say when it began and ended, so that no wait for the host
is added between two stages.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Moment = float | torch.cuda.Event
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class Timing:
    """The seconds of every repeat; none, and what went wrong, where the work could not be done."""

    seconds: tuple[float, ...]
    fault: str = ""

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The width of the middle half, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        lower, _, upper = quantiles(self.seconds, method="inclusive")
        return (upper - lower) / self.median


def now(device: str) -> Moment:
    """This moment: on a card, the one at which it will have done all that it has been asked for so far."""
    if device == "cpu":
        return time.process_time()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Moment, stop: Moment) -> float:
    """Seconds; on a card, waits for the second moment."""
    if isinstance(start, float) or isinstance(stop, float):
        assert isinstance(start, float) and isinstance(stop, float)
        return stop - start
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


def timed(
    works: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu", *, warm_up: int = 1
) -> dict[str, Timing]:
    """All take turns, so that a busy machine hits all; the first ``warm_up`` rounds do not count.

    Work for which a card has too little memory is done no more, and has a fault instead of seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in works}
    faults: dict[str, str] = {}
    for turn in range(warm_up + repeats):
        for name, work in works.items():
            if name in faults:
                continue
            try:
                start = now(device)
                work()
                elapsed = between(start, now(device))
            except torch.OutOfMemoryError:
                faults[name] = OUT_OF_MEMORY
            else:
                seconds[name].extend([elapsed] if turn >= warm_up else [])
                continue
            free_memory()
    return {
        name: Timing(() if name in faults else tuple(values), faults.get(name, "")) for name, values in seconds.items()
    }


def free_memory() -> None:
    """Gives back what nothing holds any more; not within an ``except``, whose error holds what it went through."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
