"""Loaders of batches that say so when their processes hang."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Generic, Protocol, TypeVar

import torch
from rich.filesize import decimal
from torch.utils.data import DataLoader, Dataset, _utils, get_worker_info
from torch.utils.data.dataloader import _BaseDataLoaderIter, _MultiProcessingDataLoaderIter

from datamodules.clips import start_worker
from datamodules.samplers import TrainingSampler
from stvg_nst.machine.disk_room import SHARED_MEMORY, free_bytes
from stvg_nst.types import StepTotals

TIME_LIMIT = 900.0
"""Seconds to wait for a batch. One of 16 clips of 50 MB takes 7 minutes from a network disk that gives 2 MB a second.
The other processes of a training give up after 30 minutes; they must not be the first, for they cannot say why."""

# Batches that a process has ready, PyTorch's own default.
_READY = 2

Sample = TypeVar("Sample")


class LoaderError(RuntimeError):
    """Loader processes that cannot hand their batches over, or do not come to it."""


class SharedBatch(Protocol):
    def share_memory_(self) -> Any:
        """Moves its tensors into shared memory, and returns the batch."""


def load_batches(
    dataset: Dataset[Sample],
    collate: Callable[[Sequence[Sample]], SharedBatch],
    *,
    batch_size: int,
    sampler: Iterable[Any],
    num_workers: int,
    batch_bytes: int,
    processes: int = 1,
    persistent: bool = False,
    drop_last: bool = False,
    option: str = "--data.init_args.num_workers",
) -> DataLoader[Sample]:
    """A loader that works in processes of its own, or in this one where there are none.

    It raises :class:`LoaderError` while it loads, too: where shared memory is used up, and where no batch has come for
    :data:`TIME_LIMIT`.

    Args:
        dataset: of the samples.
        collate: makes a batch of samples.
        batch_size: samples of a batch.
        sampler: what to ask the data set for, in order.
        num_workers: loader processes; 0 loads in this process, and waits as long as that takes.
        batch_bytes: of the tensors of a batch, as far as that can be told before one is read.
        processes: of the training on this machine, each of which has as many loader processes.
        persistent: keep the loader processes from one epoch to the next.
        drop_last: leave out a last batch that is not full.
        option: of the command line, that sets ``num_workers``.

    Raises:
        LoaderError: shared memory has no room for the batches that will be there at once.
    """
    room = _Room(batch_bytes, processes * (num_workers * _READY + 1), option)  # one more is being worked on
    if num_workers and SHARED_MEMORY.is_dir() and room.num_bytes > free_bytes(SHARED_MEMORY):
        raise LoaderError(room.words())
    kind: type[BatchLoader[Sample]] = TrainingLoader if isinstance(sampler, TrainingSampler) else BatchLoader
    return kind(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=_Sharing(collate, room),
        pin_memory=torch.cuda.is_available(),
        timeout=TIME_LIMIT if num_workers else 0,
        worker_init_fn=start_worker,
        prefetch_factor=_READY if num_workers else None,
        persistent_workers=persistent and num_workers > 0,
        drop_last=drop_last,
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """What a loader takes of the shared memory."""

    batch_bytes: int
    num_batches: int
    option: str

    @property
    def num_bytes(self) -> int:
        return self.num_batches * self.batch_bytes

    def words(self) -> str:
        """That it is too small, and what to do."""
        gibibytes = math.ceil(1.2 * self.num_bytes / 2**30)
        return (
            f"shared memory is too small: '{SHARED_MEMORY}' has {decimal(free_bytes(SHARED_MEMORY))} free, but up to "
            f"{self.num_batches} batches are there at once, each of about {decimal(self.batch_bytes)}; start the "
            f"container with --shm-size={gibibytes}g or more, or load in the main process with {self.option} 0; fewer "
            "workers or smaller batches need less"
        )


class _Lost(Enum):
    """What a worker sends in place of a batch that does not fit into shared memory."""

    BATCH = auto()


@dataclass(frozen=True, slots=True)
class _Sharing(Generic[Sample]):
    """Makes batches, and in a worker moves them into shared memory.

    PyTorch does that in a thread of the worker, which prints its error and drops the batch, while the main process
    waits for it for ever.
    """

    collate: Callable[[Sequence[Sample]], SharedBatch]
    room: _Room

    def __call__(self, samples: Sequence[Sample]) -> Any:
        batch = self.collate(samples)
        if get_worker_info() is None:
            return batch
        try:
            return batch.share_memory_()
        except RuntimeError as error:
            if f"({errno.ENOSPC})" not in str(error):
                raise
            return _Lost.BATCH


class BatchLoader(DataLoader[Sample]):
    """Has PyTorch's own arguments, so that Lightning can make it anew with another sampler."""

    def _get_iterator(self) -> _BaseDataLoaderIter:
        return super()._get_iterator() if self.num_workers == 0 else _BatchIterator(self)


class TrainingLoader(BatchLoader[Sample]):
    """Goes on within an epoch where a fit is resumed there.

    It deals nothing before the first batch is asked for: by then Lightning knows the epoch, and what it has had of it.
    Lightning makes the iterator ahead of that, and workers would load what the first epoch begins with.
    """

    sampler: TrainingSampler
    step_totals: Callable[[int], StepTotals | None] | None = None
    """Tells of the number of a batch what its step holds; ``None`` leaves that out."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.sampler.go_on()
        for number, batch in enumerate(super().__iter__(), start=self.sampler.batches_dealt):
            yield batch if self.step_totals is None else replace(batch, step=self.step_totals(number))

    def state_dict(self) -> dict[str, Any]:
        """Empty, for the sampler asks Lightning for its place; Lightning takes a loader with a state for resumable."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class _BatchIterator(_MultiProcessingDataLoaderIter):
    """Says in our words why no batch comes."""

    def __init__(self, loader: BatchLoader[Any]) -> None:
        self._room: _Room = loader.collate_fn.room  # type: ignore[union-attr]
        super().__init__(loader)

    def _try_get_data(self, timeout: float = _utils.MP_STATUS_CHECK_INTERVAL) -> tuple[bool, Any]:
        # In many short waits: a process that is suspended meanwhile, as by Ctrl-Z, comes late for one of them only.
        wait = min(timeout, _utils.MP_STATUS_CHECK_INTERVAL)
        for _ in range(math.ceil(timeout / wait)):
            success, data = super()._try_get_data(wait)
            # What a worker sends: the number of the batch, and the batch.
            if success and isinstance(data, tuple) and data[-1] is _Lost.BATCH:
                raise LoaderError(self._room.words())
            if success:
                return success, data
        raise LoaderError(
            f"no batch has come from {self._num_workers} loader process(es) for {timeout:g} s: they stand still, or "
            "the disk that they read from gives too little; look whether the videos can be read, and give "
            f"{self._room.option} 0 to see where loading stops, and to wait without limit"
        )
