from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import stvg_nst.nullspace.store
from stvg_nst.nullspace import fingerprint, split_dual_space
from stvg_nst.nullspace.store import METADATA_KEY, DualSpaceStore, DualSpaceStoreError
from stvg_nst.tensor_files import read_tensors

EXACT = {"rule": "exact", "threshold": None}
HALF = {"rule": "energy", "threshold": 0.5}


def weight_of(seed: int, shape: tuple[int, int] = (6, 20)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same_bits(first, second) -> None:
    for name in ("row", "null", "singular_values"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype == torch.float64
        assert fingerprint(a) == fingerprint(b)
    for name in ("shape", "rank", "nullity", "noise", "leakage", "fingerprint", "exact", "sigma_next"):
        assert getattr(first, name) == getattr(second, name)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def forbid_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args, **kwargs):
        raise AssertionError("decomposed again")

    monkeypatch.setattr(torch.linalg, "svd", refuse)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
@pytest.mark.parametrize("options", [EXACT, HALF])
def test_the_second_call_reads_the_same_bits(tmp_path, monkeypatch, shape, options):
    weight = weight_of(0, shape)
    computed = DualSpaceStore(tmp_path / "new" / "folder").get(weight, **options)
    assert_same_bits(computed, split_dual_space(weight, **options))
    forbid_decompositions(monkeypatch)
    assert_same_bits(DualSpaceStore(tmp_path / "new" / "folder").get(weight.clone(), **options), computed)


def test_weight_rule_and_threshold_have_files_of_their_own(tmp_path, monkeypatch):
    store = DualSpaceStore(tmp_path)
    asked = [
        (weight_of(0), EXACT),
        (weight_of(1), EXACT),
        (weight_of(0).bfloat16(), EXACT),
        (weight_of(0), HALF),
        (weight_of(0), {"rule": "energy", "threshold": 1}),
        (weight_of(0), {"rule": "relative", "threshold": 0.5}),
    ]
    computed = [store.get(weight, **options) for weight, options in asked]
    assert len(list(tmp_path.iterdir())) == len(asked)
    assert (tmp_path / f"{fingerprint(weight_of(0))}-energy-0.5.safetensors").is_file()
    forbid_decompositions(monkeypatch)
    for (weight, options), space in zip(asked, computed, strict=True):
        assert_same_bits(store.get(weight, **options), space)
    store.get(weight_of(0), rule="energy", threshold=1.0)  # the same threshold as 1


def test_a_tie_warns_when_read_too(tmp_path):
    store = DualSpaceStore(tmp_path)
    for _ in range(2):
        with pytest.warns(UserWarning, match="singular values 1 and 2 tie"):
            store.get(torch.eye(3), rule="energy", threshold=0.2)


def test_what_does_not_fit_is_refused_and_not_stored(tmp_path):
    store = DualSpaceStore(tmp_path / "store")
    with pytest.raises(ValueError, match=r"takes no threshold, got 0\.5"):
        store.get(weight_of(0), threshold=0.5)
    with pytest.raises(ValueError, match="1 of 1 entries inf or nan"):
        store.get(torch.full((1, 1), float("nan")))
    assert not (tmp_path / "store").exists()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def of_someone_else(path: Path) -> None:
    save_file(load_file(path), path)


def edited(before: bytes, after: bytes):
    def edit(path: Path) -> None:
        data = path.read_bytes()
        assert data.count(before) == 1
        assert len(before) == len(after)
        path.write_bytes(data.replace(before, after))

    return edit


def changed(change: Callable[[dict[str, Any]], object]):
    """A file whose header says something else, its tensors as they were."""

    def rewrite(path: Path) -> None:
        tensors, metadata = read_tensors(path)
        header = json.loads(metadata[METADATA_KEY])
        change(header)
        save_file(tensors, path, {METADATA_KEY: json.dumps(header)})

    return rewrite


def test_a_file_from_before_headers_had_checksums_is_read(tmp_path):
    computed = DualSpaceStore(tmp_path).get(weight_of(0))
    changed(lambda header: header["checksums"].pop("header"))(only_file(tmp_path))
    assert_same_bits(DualSpaceStore(tmp_path).get(weight_of(0)), computed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_short, "no readable safetensors file"),
        (lambda path: path.write_text("not at all"), "no readable safetensors file"),
        (flip_a_bit, "does not have the checksums"),
        (changed(lambda header: header.update(noise=2 * header["noise"])), "does not have the checksums"),
        (of_someone_else, "holds no dual space: expected metadata 'stvg_nst_dual_space'"),
        (edited(b'\\"noise\\"', b'\\"noisy\\"'), "damaged metadata .*noisy"),
        (edited(b'{\\"checksums', b'[\\"checksums'), "damaged metadata"),
        (edited(b'\\"format_version\\": 1', b'\\"format_version\\": 9'), "has format 9, this version reads 1"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage, message):
    store = DualSpaceStore(tmp_path)
    store.get(weight_of(0))
    path = only_file(tmp_path)
    damage(path)
    with pytest.raises(DualSpaceStoreError, match=message) as error:
        store.get(weight_of(0))
    assert str(path) in str(error.value)
    assert "delete it" in str(error.value)
    path.unlink()
    store.get(weight_of(0))


def test_a_file_under_another_name_is_refused(tmp_path):
    store = DualSpaceStore(tmp_path)
    store.get(weight_of(0))
    path = only_file(tmp_path)
    other = fingerprint(weight_of(1))
    path.rename(tmp_path / f"{other}-exact.safetensors")
    with pytest.raises(
        DualSpaceStoreError, match=f"another decomposition: expected .*{other}.*, got .*{path.name[:64]}"
    ):
        store.get(weight_of(1))


def test_a_missing_tensor_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(stvg_nst.nullspace.store, "TENSORS", ("row", "null"))
    store = DualSpaceStore(tmp_path)
    store.get(weight_of(0))
    monkeypatch.undo()
    with pytest.raises(DualSpaceStoreError, match="expected tensors"):
        store.get(weight_of(0))


def test_many_writers_of_one_file_all_get_it_and_leave_nothing_behind(tmp_path, monkeypatch):
    writers = 4
    all_written = threading.Barrier(writers, timeout=20)

    def save_together(tensors, path, metadata):
        save_file(tensors, path, metadata=metadata)
        all_written.wait()  # none has found the file, and none has put it in its place yet

    monkeypatch.setattr("stvg_nst.tensor_files.save_file", save_together)
    with ThreadPoolExecutor(writers) as pool:
        spaces = list(pool.map(lambda _: DualSpaceStore(tmp_path).get(weight_of(0)), range(writers)))
    for space in [*spaces, DualSpaceStore(tmp_path).get(weight_of(0))]:
        assert_same_bits(space, spaces[0])
    only_file(tmp_path)


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr("stvg_nst.tensor_files.save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        DualSpaceStore(tmp_path).get(weight_of(0))
    assert not list(tmp_path.iterdir())
