from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.machine.folder_lock import LOCK, is_held, locked


def test_one_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with locked(folder) as descriptor:
        assert descriptor > 2
        with pytest.raises(BlockingIOError), locked(folder):
            pass
    with locked(folder):
        pass


def test_who_asks_leaves_no_trace_and_turns_nobody_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_held(tmp_path / "new") and not is_held(tmp_path)
    assert not [*tmp_path.iterdir()]
    with locked(tmp_path):
        assert is_held(tmp_path)
    with (tmp_path / LOCK).open() as another:
        fcntl.flock(another, fcntl.LOCK_SH)  # which asks
        assert not is_held(tmp_path)
        monkeypatch.setattr(time, "sleep", lambda seconds: fcntl.flock(another, fcntl.LOCK_UN))
        with locked(tmp_path):
            assert is_held(tmp_path)


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


@pytest.mark.parametrize("shared", [False, True])
def test_nfs_grants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, shared: bool
) -> None:
    def as_nfs(file: Any, operation: int) -> None:
        lacking = os.O_WRONLY if operation & fcntl.LOCK_SH else os.O_RDONLY
        if fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE == lacking:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    with locked(tmp_path, shared=shared):
        assert caplog.text == ""


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without_locks(file: Any, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with locked(tmp_path):
        assert "has no locks (Function not implemented)" in caplog.text
        assert not is_held(tmp_path)
