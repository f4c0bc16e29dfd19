"""Loader processes that cannot go on must say so: in a time that tests have, and in shared memory that is full."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from datamodules import loaders
from datamodules.loaders import LoaderError, load_batches
from stvg_nst.machine import disk_room
from stvg_nst.types import Tube

Usage = namedtuple("Usage", "total used free")


@dataclass
class Numbers:
    """A batch."""

    values: torch.Tensor
    loader: int

    def share_memory_(self) -> Numbers:
        self.values.share_memory_()
        return self


class Counting(Dataset[int]):
    """Its fourth sample may be slow, or the death of who loads it."""

    def __init__(self, *, seconds: float = 0.0, kill: bool = False) -> None:
        self.seconds, self.kill = seconds, kill

    def __getitem__(self, index: int) -> int:
        if index == 3:
            time.sleep(self.seconds)
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
        return index


def collate(samples: Any) -> Numbers:
    return Numbers(torch.tensor(samples), os.getpid())


def load(dataset: Dataset[int], **changes: Any) -> DataLoader[int]:
    options = {"batch_size": 2, "sampler": range(6), "num_workers": 1, "batch_bytes": 16} | changes
    return load_batches(dataset, collate, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_batches_come_in_order_epoch_after_epoch(workers: int, persistent: bool) -> None:
    loader = load(Counting(), num_workers=workers, persistent=persistent)
    for _ in range(2):
        batches = list(loader)
        assert [batch.values.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
        assert all((batch.loader == os.getpid()) is (workers == 0) for batch in batches)
        assert all(batch.values.is_shared() is (workers > 0) for batch in batches)


def test_too_little_shared_memory_is_told_before_the_first_batch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loaders, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda path: Usage(2**26, 0, 2**26))
    # Two processes, each with four batches ready and one that it works on.
    load(Counting(), num_workers=2, batch_bytes=2**26 // 10, processes=2)
    with pytest.raises(LoaderError) as raised:
        load(Counting(), num_workers=2, batch_bytes=2**30, processes=2)
    words = str(raised.value)
    assert f"'{tmp_path}' has 67.1 MB free, but up to 10 batches are there at once, each of about 1.1 GB" in words
    assert "--shm-size=12g or more" in words and "--data.init_args.num_workers 0" in words
    load(Counting(), num_workers=0, batch_bytes=2**40)
    monkeypatch.setattr(loaders, "SHARED_MEMORY", tmp_path / "absent")
    load(Counting(), num_workers=2, batch_bytes=2**40)


def test_shared_memory_that_is_used_up_later_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(batch: Numbers) -> Numbers:
        if 4 in batch.values:
            raise RuntimeError(f"unable to allocate shared memory(shm) for file </torch_1>: whatever ({errno.ENOSPC})")
        return batch

    monkeypatch.setattr(Numbers, "share_memory_", refuse)
    batches = iter(load(Counting()))
    assert [next(batches).values.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(LoaderError, match=r"shared memory is too small: .*--shm-size=1g.*num_workers 0"):
        next(batches)


def test_other_errors_of_a_worker_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batch: Numbers) -> Numbers:
        raise RuntimeError("something else")

    monkeypatch.setattr(Numbers, "share_memory_", fail)
    with pytest.raises(RuntimeError, match="something else"):
        list(load(Counting()))


def test_a_standstill_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    batches: Any = iter(load(Counting(seconds=1)))
    assert next(batches).values.tolist() == [0, 1]
    batches._timeout = 0.2  # from here on: a worker's start may take longer
    with pytest.raises(LoaderError, match=r"no batch .* from 1 loader process\(es\) for 0.2 s: .*num_workers 0 to see"):
        next(batches)


def test_who_is_suspended_loses_no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that went on while the process was stopped ends late, and counts as one of many all the same."""
    waits: list[float] = []
    wait = _MultiProcessingDataLoaderIter._try_get_data

    def stopped(iterator: Any, timeout: float) -> tuple[bool, Any]:
        waits.append(timeout)
        return (False, None) if len(waits) < 3 else wait(iterator, timeout)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", stopped)
    assert next(iter(load(Counting()))).values.tolist() == [0, 1]
    assert waits == [5.0, 5.0, 5.0] and loaders.TIME_LIMIT / 5 > 100


def test_a_worker_that_is_killed_is_told_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed|exited unexpectedly)"):
        list(load(Counting(kill=True)))
    assert time.monotonic() - start < loaders.TIME_LIMIT / 10


class Tubes(Dataset[Tube]):
    def __init__(self) -> None:
        self.tubes = [Tube(0, 2, torch.rand(2, 4)) for _ in range(20)]

    def __getitem__(self, index: int) -> Tube:
        return self.tubes[index]


@dataclass
class Opened:
    tube: Tube
    files: int

    def share_memory_(self) -> Opened:
        return self


def open_files(samples: Any) -> Opened:
    return Opened(samples[0], len(list(Path("/proc/self/fd").iterdir())))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists a process's open files there")
def test_a_worker_keeps_no_file_open_for_each_tube_that_it_has_sent() -> None:
    tubes = Tubes()
    sent = list(load_batches(tubes, open_files, batch_size=1, sampler=range(20), num_workers=1, batch_bytes=1))
    assert all(torch.equal(opened.tube.boxes, tube.boxes) for opened, tube in zip(sent, tubes.tubes, strict=True))
    assert sent[-1].files - sent[0].files < 10
