"""Data that may only be read, and file systems that cannot do what others can."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import MiniSTVG
from datamodules.caches.array_store import ArrayStore, ArrayWriter, CacheKind
from stvg_nst.nullspace.store import DualSpaceStore
from stvg_nst.training.checkpoints import read_checkpoint
from stvg_nst.types import BackboneFeatures, Batch
from tests.faults.killing import is_killed

NOBODY = 65534
KIND = CacheKind("cached arrays", "arrays.bin", "float16", "write them", "arrays")


@pytest.fixture
def common() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's are their owner's alone."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def encode(batch: Batch) -> BackboneFeatures:
    assert batch.frames is not None
    cells = torch.nn.functional.adaptive_avg_pool2d(batch.frames.flatten(0, 1), 4).unflatten(0, batch.frames.shape[:2])
    return BackboneFeatures(cells, cells, torch.ones(len(batch), 4, 4, dtype=torch.bool))


def make_data(folder: Path) -> MiniSTVG:
    clips = {"training_clips": 2, "val_clips": 1, "test_clips": 1, "num_frames": 4, "batch_size": 2}
    return MiniSTVG(folder / "data", **clips, variants=1, features=folder / "features", num_workers=0)


def train_as_nobody(folder: Path) -> None:
    """Reads all that a fit reads, and splits a weight that nobody has split; permission bits bind no root."""
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    data = make_data(folder)
    data.prepare_data()
    data.setup("fit")
    assert len([*data.train_dataloader(), *data.val_dataloader()]) == 2 + 1
    said: list[str] = []
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("stvg_nst").addHandler(listener)
    space = DualSpaceStore(folder / "spaces").get(torch.eye(2, 3))
    assert space.rank == 2
    (line,) = said
    assert "cannot be written (Permission denied): decompositions are computed anew" in line


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_a_training_needs_only_to_read_its_data(common: Path) -> None:
    data = make_data(common)
    data.prepare_data()
    for split in ("train", "val"):
        data.build_cache(split, encode, "backbones")
    (common / "spaces").mkdir()
    assert not is_killed(partial(train_as_nobody, common), seconds=None)


def no_map(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))


def test_a_cache_is_read_where_files_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ArrayWriter(KIND, tmp_path / "cache", {}) as writer:
        for number in range(2):
            writer.add(f"{number}", [np.full((3,), number)])
    monkeypatch.setattr(np, "memmap", no_map)
    store = ArrayStore(KIND, tmp_path / "cache", {})
    assert [store.read(f"{number}")[0].tolist() for number in range(2)] == [[0, 0, 0], [1, 1, 1]]


def test_a_checkpoint_is_read_where_files_cannot_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = ("adapter", "state_dict", "loops", "optimizer_states", "lr_schedulers", "global_step")
    torch.save(dict.fromkeys(parts, torch.ones(2)), tmp_path / "last.ckpt")
    load = torch.load

    def without_map(*arguments: Any, mmap: bool = False, **options: Any) -> Any:
        if mmap:
            raise RuntimeError("unable to mmap 8 bytes from file <last.ckpt>: No such device (19)")
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", without_map)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"].tolist() == [1, 1]
