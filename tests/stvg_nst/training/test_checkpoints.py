from __future__ import annotations

import os
import pickle
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from stvg_nst.training.checkpoints import (
    CheckpointError,
    WholeCheckpointIO,
    find_checkpoint,
    require_checkpoint,
    write_whole_checkpoints,
)
from tests.counting import Counting, Numbers, make_trainer

STATE = {"adapter": {}, "state_dict": {}, "loops": {}, "optimizer_states": [], "lr_schedulers": [], "global_step": 3}


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path


def write(path: Path, content: Any = STATE, *, age: int = 0) -> Path:
    torch.save(content, path)
    os.utime(path, (1e9 - age, 1e9 - age))
    return path


def find(run: Path, named: str | None, stage: Any = "fit") -> Path | None:
    return find_checkpoint(named, run, [run / "checkpoints"], stage)


def test_last_is_the_newest_to_go_on_from(run: Path) -> None:
    assert find(run, "last") is None, "the same command begins a fit and goes on"
    other = write(run / "checkpoints" / "epoch=0-step=4.ckpt")
    assert find(run, "last") == other, "the first epoch's, of a fit that was killed before it wrote last.ckpt"
    write(run / "checkpoints" / "last.ckpt", age=9)
    last = write(run / "checkpoints" / "last-v1.ckpt", age=5)
    assert find(run, "last") == last
    requeued = write(run / "hpc_ckpt_1.ckpt", age=1)
    assert find(run, "last") == requeued
    with pytest.raises(CheckpointError, match=r"'nowhere' has no checkpoint; name a file, or give --model\.adapter"):
        find_checkpoint("last", Path("nowhere"), [], "test")


def test_a_clock_that_is_set_back_hides_no_step(run: Path) -> None:
    write(run / "checkpoints" / "last.ckpt", {**STATE, "global_step": 100})
    later = write(run / "checkpoints" / "last-v1.ckpt", {**STATE, "global_step": 200}, age=3600)
    assert find(run, "last") == later
    cut = run / "checkpoints" / "last-v2.ckpt"
    cut.write_bytes(later.read_bytes()[:-40])
    os.utime(cut, (1, 1))
    assert find(run, "last") == cut, "nothing says how far it was, so that a person must decide"
    with pytest.raises(CheckpointError, match=r"the newest sound one beside it: --ckpt_path .*last-v1\.ckpt"):
        require_checkpoint(cut, "fit")


def test_what_slurm_left_is_found_by_its_number(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"has no hpc_ckpt_N\.ckpt; leave the option out to begin anew"):
        find(run, "hpc")
    for number in (2, 10, 9):
        write(run / f"hpc_ckpt_{number}.ckpt")
    assert find(run, "hpc") == run / "hpc_ckpt_10.ckpt"
    assert find(run, None) is None
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    assert find(run, None) == run / "hpc_ckpt_10.ckpt", "as Lightning does"


@pytest.mark.parametrize("named", ["best", "registry", "registry:model:version:v2", "no/last.ckpt", "checkpoints"])
def test_what_names_nothing_is_refused_with_what_there_is(
    run: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    with pytest.raises(CheckpointError, match=r"leave the option out to begin anew$"):
        find(run, named)
    write(run / "checkpoints" / "a b.ckpt")
    with pytest.raises(CheckpointError, match=r"the newest that there is: --ckpt_path '\S*checkpoints/a b\.ckpt'$"):
        find(run, named)


def cut(path: Path, share: float) -> None:
    content = write(path).read_bytes()
    path.write_bytes(content[: int(share * len(content))])


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_cut_checkpoint_is_named_and_a_sound_one_offered(run: Path, share: float) -> None:
    last, sound = run / "checkpoints" / "last.ckpt", write(run / "checkpoints" / "epoch=1-step=8.ckpt", age=3)
    write(run / "checkpoints" / "epoch=0-step=4.ckpt", age=7)
    (run / "checkpoints" / "newer.ckpt").write_bytes(b"cut as well")
    cut(last, share)
    said = f"'{last}' ({last.stat().st_size:,} bytes) is no whole checkpoint: it was cut, or is of another program; "
    offer = f"the newest sound one beside it: --ckpt_path {sound}"
    with pytest.raises(CheckpointError, match=f"^--ckpt_path: {re.escape(said + offer)}$"):
        require_checkpoint(last, "fit")
    assert require_checkpoint(sound, "fit") is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("other.ckpt", {"state_dict": {}}, "is no checkpoint of our `fit`: it lacks adapter, loops, optimizer_states"),
        ("other.ckpt", [1, 2], "is no checkpoint of our `fit`: it lacks adapter"),
        ("weights.ckpt", {**STATE, "optimizer_states": None}, None),
        ("code.ckpt", {**STATE, "more": Code()}, "which could run code when it is loaded"),
        ("adapter.safetensors", {}, "belongs to --model.adapter or --model.weights"),
    ],
)
def test_what_is_foreign_is_refused(run: Path, name: str, content: Any, said: str | None) -> None:
    path = write(run / name, content)
    if said is None:
        return require_checkpoint(path, "fit")
    with pytest.raises(CheckpointError, match=re.escape(said)) as refused:
        require_checkpoint(path, "fit")
    assert "\n" not in str(refused.value) and not Path("ran").exists()


@pytest.mark.parametrize("content", [b"text\n" * 99, pickle.dumps({"a": 1}), b"PK\x05\x06" + bytes(18)])
def test_no_other_file_ends_in_a_traceback(run: Path, content: bytes) -> None:
    path = run / "other.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no sound one lies beside it"):
        require_checkpoint(path, "test")


def test_a_checkpoint_with_a_flipped_bit_is_refused_and_never_offered(run: Path) -> None:
    weights = torch.arange(64, dtype=torch.float64)
    first, *damaged = (
        write(run / f"last-v{step}.ckpt", {**STATE, "global_step": step, "weights": weights}) for step in (1, 2, 3)
    )
    for path in damaged:
        content = bytearray(path.read_bytes())
        content[content.index(weights.numpy().tobytes()) + 100] ^= 1
        path.write_bytes(content)
    require_checkpoint(first, "fit")
    with pytest.raises(CheckpointError, match=r"v3\.ckpt' is damaged: .* checksum; the newest sound .*last-v1\.ckpt"):
        require_checkpoint(damaged[-1], "fit")


def test_a_file_that_may_not_be_read_is_not_called_damaged(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(run / "last.ckpt")

    def refuse(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError):
        require_checkpoint(path, "fit")


def test_checkpoints_appear_whole_beside_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "another file system, that is not there"))
    trainer, last = make_trainer(tmp_path, max_epochs=1), tmp_path / "checkpoints" / "last.ckpt"
    write_whole_checkpoints(trainer)
    trainer.fit(Counting(), datamodule=Numbers())
    require_checkpoint(last, "fit")
    before = last.read_bytes()

    def fail(checkpoint: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        trainer.save_checkpoint(last)
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == ["epoch=0-step=3.ckpt", "last.ckpt"]


def test_another_way_to_write_checkpoints_is_kept(tmp_path: Path) -> None:
    class Own(WholeCheckpointIO):
        pass

    trainer = make_trainer(tmp_path, plugins=[own := Own()])
    write_whole_checkpoints(trainer)
    assert trainer.strategy.checkpoint_io is own
