from __future__ import annotations

import os

import pytest

from stvg_nst.machine.cores import granted_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_a_process_counts_the_cores_that_it_was_granted() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert granted_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert granted_cores() == len(before)


def test_without_affinity_the_machine_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert granted_cores() == 7
