from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from datamodules.isolation import Failure, IsolatedCalls


def outcomes(function: Callable[..., Any], tasks: list[Any], *, workers: int = 2, time_limit: float = 60) -> list[Any]:
    calls: IsolatedCalls[Any, Any] = IsolatedCalls(function, workers=workers, time_limit=time_limit)
    return [outcome for _, outcome in sorted(calls(tasks), key=lambda pair: pair[0])]


def test_every_task_is_answered() -> None:
    assert outcomes(abs, [-3, 2, -1, 0, 5]) == [3, 2, 1, 0, 5]
    assert outcomes(abs, []) == []


def test_a_crash_costs_its_own_task_only() -> None:
    first, second, third = outcomes(os._exit, [3, 4, 5], workers=1)
    for status, failure in ((3, first), (4, second), (5, third)):
        assert failure == Failure(f"kills the process that reads it, with exit status {status}")


def test_a_signal_is_named() -> None:
    assert outcomes(signal.raise_signal, [signal.SIGSEGV]) == [Failure("kills the process that reads it, by SIGSEGV")]


def test_a_hanging_call_is_given_up() -> None:
    start = time.monotonic()
    quick, hanging, late = outcomes(time.sleep, [0.0, 1000.0, 0.0], workers=1, time_limit=1)
    assert (quick, late) == (None, None) and hanging == Failure("takes longer than 1 seconds")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(("workers", "time_limit"), [(0, 1.0), (1, 0.0)])
def test_refuses_nonsense(workers: int, time_limit: float) -> None:
    with pytest.raises(ValueError, match=f"got {workers} and {time_limit}"):
        IsolatedCalls(abs, workers=workers, time_limit=time_limit)
