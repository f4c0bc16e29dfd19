from __future__ import annotations

import pytest

from benchmarks.epochs import CLOCKS, costs_of, parts_of
from stvg_nst.epoch_time import epoch_time

TERMS = {
    "step": dict.fromkeys(CLOCKS, 0.5),
    "inference": dict.fromkeys(CLOCKS, 0.25),
    "exchange": {"processor": 0.0, "clock": 0.125},
}


@pytest.mark.parametrize(
    ("processes", "clock", "training", "validation"),
    [(1, "processor", 80.0, 25.0), (1, "clock", 80.0, 25.0), (2, "processor", 40.0, 12.5), (2, "clock", 41.25, 12.5)],
)
def test_an_epoch_is_its_clips_over_the_processes_and_an_exchange_a_step(
    processes: int, clock: str, training: float, validation: float
) -> None:
    costs = costs_of(TERMS, clock, {"steps": 10, "validated_clips": 100})
    assert parts_of(epoch_time(costs, processes)) == {"training": training, "validation": validation}
