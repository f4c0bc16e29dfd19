"""One flipped bit in any file that is kept for later: what is read is what was written, or an error of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.caches.array_store import ArrayStore, ArrayWriter, CacheError, CacheKind
from datamodules.ministvg.store import DamagedSplitError, ensure_split, load_annotations
from stvg_nst.models.encoding_store import EncodingStore, EncodingStoreError
from stvg_nst.nullspace.store import DualSpaceStore, DualSpaceStoreError
from stvg_nst.training.checkpoints import CheckpointError, require_checkpoint, write_whole_checkpoints
from stvg_nst.tuning import AdapterMismatchError, LoRA, load_adapter, save_adapter
from tests.counting import Counting, Numbers, make_trainer

FLIPS = 20  # of each file, and a hundred times as many where slow tests are run
WEIGHT = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
ARRAYS = CacheKind("cached arrays", "arrays.bin", "float16", "write them", "arrays")


def arrays(folder: Path) -> Callable[[], Any]:
    with ArrayWriter(ARRAYS, folder / "cache", {"of": "numbers"}) as writer:
        for number in range(3):
            writer.add(f"clip {number}", [np.full((2, 5), number), np.arange(7)])

    def read() -> Any:
        store = ArrayStore(ARRAYS, folder / "cache", {"of": "numbers"})
        store.require([f"clip {number}" for number in range(3)])
        return [array.tolist() for number in range(3) for array in store.read(f"clip {number}")]

    return read


def spaces(folder: Path) -> Callable[[], Any]:
    store = DualSpaceStore(folder)
    store.get(WEIGHT)

    def read() -> Any:
        space = store.get(WEIGHT)
        return space.row.tolist(), space.null.tolist(), space.rank, space.shape, space.leakage, space.noise

    return read


def encodings(folder: Path) -> Callable[[], Any]:
    tokens = torch.arange(12.0).reshape(3, 4)

    def read() -> Any:
        return EncodingStore(folder, "encoder").get("content", lambda: tokens).tolist()

    read()
    return read


def split(folder: Path) -> Callable[[], Any]:
    def read() -> Any:
        path = ensure_split(folder, "test", num_clips=1, progress=False)
        clips = {clip.name: clip.read_bytes() for clip in (path / "clips").iterdir()}
        return clips, repr(load_annotations(path))

    read()
    return read


def checkpoint(folder: Path) -> Callable[[], Any]:
    trainer = make_trainer(folder, max_epochs=1)
    write_whole_checkpoints(trainer)
    trainer.fit(Counting(), datamodule=Numbers())
    path = folder / "checkpoints" / "last.ckpt"
    for other in path.parent.glob("epoch*"):
        other.unlink()

    def read() -> Any:
        require_checkpoint(path, "fit")
        return repr(torch.load(path, weights_only=True))

    return read


def adapter(folder: Path) -> Callable[[], Any]:
    def model() -> tuple[torch.nn.Module, LoRA]:
        torch.manual_seed(0)
        layers, tuner = torch.nn.Sequential(torch.nn.Linear(5, 4)), LoRA(["0"], rank=2, seed=0)
        tuner.inject(layers)
        return layers, tuner

    trained, tuner = model()
    with torch.no_grad():
        for parameter in tuner.trainable_parameters(trained):
            parameter += 1
    save_adapter(folder / "adapter.safetensors", trained, tuner)

    def read() -> Any:
        fresh, own = model()
        load_adapter(folder / "adapter.safetensors", fresh, own)
        return {name: value.tolist() for name, value in fresh.state_dict().items()}

    return read


STORES: dict[Callable[[Path], Callable[[], Any]], type[Exception]] = {
    arrays: CacheError,
    spaces: DualSpaceStoreError,
    encodings: EncodingStoreError,
    split: DamagedSplitError,
    checkpoint: CheckpointError,
    adapter: AdapterMismatchError,
}


def flipped(folder: Path, times: int) -> Iterator[tuple[str, int, int]]:
    """Flips one bit of one file at a time, and puts it back."""
    random = Random(0)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole, name = path.read_bytes(), str(path.relative_to(folder))
        for _ in range(times if whole else 0):
            place, bit = random.randrange(len(whole)), random.randrange(8)
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            yield name, place, bit
        path.write_bytes(whole)


@pytest.mark.parametrize("times", [FLIPS, pytest.param(100 * FLIPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", STORES, ids=lambda make: make.__name__)
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path, make: Callable[..., Any], times: int) -> None:
    read, refused, harmless = make(tmp_path), 0, 0
    right = read()
    for name, place, bit in flipped(tmp_path, times):
        try:
            found = read()
        except STORES[make]:
            refused += 1
            continue
        assert found == right, f"bit {bit} of byte {place} of '{name}' is not noticed"
        harmless += 1
    print(f"{make.__name__}: {refused} refused, {harmless} harmless")
    assert refused > harmless
