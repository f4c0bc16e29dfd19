from __future__ import annotations

import fcntl
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.machine.folder_lock import locked


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with locked(folder) as descriptor:
        assert descriptor > 2
        with pytest.raises(BlockingIOError), locked(folder):
            pass
    with locked(folder):
        pass


def test_a_forked_process_does_not_hold_it_longer(tmp_path: Path) -> None:
    """A loader's worker outlives for seconds a training that is killed."""
    forks = multiprocessing.get_context("fork")
    up = forks.Event()
    worker = forks.Process(target=lambda: (up.set(), time.sleep(60)), daemon=True)
    with locked(tmp_path):
        worker.start()
        assert up.wait(30)
    try:
        with locked(tmp_path):
            assert worker.is_alive()
    finally:
        worker.kill()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(file: Any, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with locked(tmp_path):
        assert "has no locks (Function not implemented)" in caplog.text
