"""Checkpoints of fits: written whole, found by a word, and refused in one line where nothing can go on from them."""

from __future__ import annotations

import errno
import math
import os
import pickle
import re
import shlex
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from stvg_nst.machine.whole_files import whole_file
from stvg_nst.results.run_folder import RunFile
from stvg_nst.torch_files import DAMAGED, is_archive

Stage = Literal["fit", "encoders", "validate", "test"]

_STATE = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "global_step")
_NEEDED: dict[Stage, tuple[str, ...]] = {
    "fit": ("adapter", *_STATE),
    "encoders": _STATE,
    "validate": ("adapter", "state_dict"),
    "test": ("adapter", "state_dict"),
}


class CheckpointError(ValueError):
    """A checkpoint that is not there, is damaged, or is of something else; the message says what to do."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it, whereas Lightning's own copies it from ``TMPDIR``."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        assert storage_options is None, "a run's folder is on a file system"
        with whole_file(Path(path)) as partial, partial.open("wb") as file:
            torch.save(checkpoint, file)


def write_whole_checkpoints(trainer: Trainer) -> None:
    """Lets a trainer write its checkpoints whole, unless it was given another way to write them."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()


def find_checkpoint(named: str | None, run: Path, folders: Sequence[Path], stage: Stage) -> Path | None:
    """The checkpoint that ``--ckpt_path`` names, ``None`` where a fit begins anew.

    ``last`` is the newest that there is to go on from, and none is no error for a fit: the same command begins it.
    ``hpc`` is what Lightning writes before SLURM starts a job again, and goes on from there if nothing is named.

    Args:
        named: a file, ``last``, ``hpc``, or nothing.
        run: the folder of the run.
        folders: where its checkpoints are.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    requeued = sorted(run.glob("hpc_ckpt_*.ckpt"), key=lambda path: int("0" + re.sub(r"\D", "", path.stem)))
    kept = [path for folder in folders for path in folder.glob("*.ckpt")]
    if named is None:
        return requeued[-1] if requeued and SLURMEnvironment.detect() else None
    if named == "last":
        to_go_on = [*(path for path in kept if path.name.startswith("last")), *requeued]
        newest = _furthest(to_go_on or kept, stage)
        if not newest and stage in ("validate", "test"):
            raise CheckpointError(f"--ckpt_path last: '{run}' has no checkpoint; name a file, or give --model.adapter")
        return newest[0] if newest else None
    if named == "hpc":
        if not requeued:
            raise CheckpointError(f"--ckpt_path hpc: '{run}' has no hpc_ckpt_N.ckpt; {_others(kept, stage)}")
        return requeued[-1]
    if named == "best" or named.split(":")[0] == "registry":
        raise CheckpointError(f"--ckpt_path {named} means nothing to a new process; {_others(kept, stage)}")
    path = Path(named)
    if not path.exists():
        raise CheckpointError(f"--ckpt_path: there is no '{path}'; {_others(kept, stage)}")
    if path.is_dir():
        inside = [*path.glob("*.ckpt"), *path.glob(f"{RunFile.CHECKPOINTS}/*.ckpt")]
        raise CheckpointError(f"--ckpt_path: '{path}' is a folder; {_others(inside, stage)}")
    return path


def require_checkpoint(path: Path, stage: Stage, *, trusted: bool = False) -> None:
    """Refuses a file from which a stage cannot take its weights, or a fit its whole state.

    Args:
        trusted: load it even if that could run code.

    Raises:
        CheckpointError: it is damaged or of something else; the newest sound one beside it is named.
    """
    try:
        read_checkpoint(path, stage, trusted=trusted)
        _check_sums(path)
    except CheckpointError as error:
        if stage == "encoders":  # which has no option to name another
            raise CheckpointError(f"{error}; delete it, and the same command goes on from the one before") from error
        raise CheckpointError(f"--ckpt_path: {error}; {_offer(path, stage)}") from error


def read_checkpoint(path: Path, stage: Stage = "fit", *, trusted: bool = False) -> dict[str, Any]:
    """What a checkpoint holds, its tensors mapped and not read.

    Raises:
        CheckpointError: it is damaged or of something else.
    """
    if path.suffix == ".safetensors":
        raise CheckpointError(
            f"'{path}' holds weights, and no state to go on from: it belongs to --model.adapter or --model.weights"
        )
    if not is_archive(path):
        raise CheckpointError(
            f"'{path}' ({path.stat().st_size:,} bytes) is no whole checkpoint: it was cut, or is of another program"
        )
    try:
        content = _load(path, trusted=trusted)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' holds more than tensors and plain values, which could run code when it is loaded "
            "(--weights_only false, if you trust it)"
        ) from error
    except DAMAGED as error:
        raise CheckpointError(
            f"'{path}' cannot be read as a checkpoint: it is damaged, or of another program"
        ) from error
    missing = [name for name in _NEEDED[stage] if not isinstance(content, dict) or name not in content]
    if missing:
        ours = "encoders" if stage == "encoders" else "fit"
        raise CheckpointError(f"'{path}' is no checkpoint of our `{ours}`: it lacks {', '.join(missing)}")
    return content


def _load(path: Path, *, trusted: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=not trusted)
    except RuntimeError as error:
        if os.strerror(errno.ENODEV) not in str(error):
            raise
    return torch.load(path, map_location="cpu", weights_only=not trusted)  # the file system cannot map files


def _check_sums(path: Path) -> None:
    """Reads a checkpoint once from end to end: what is mapped and not read would not show a flipped bit.

    Raises:
        CheckpointError: a part of it does not have its checksum.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except DAMAGED as error:
        raise CheckpointError(f"'{path}' cannot be read as a checkpoint: it is damaged ({error})") from error
    if damaged is not None:
        raise CheckpointError(f"'{path}' is damaged: '{damaged}' in it does not have its checksum")


def _furthest(paths: Iterable[Path], stage: Stage) -> list[Path]:
    """Those with most steps behind them first. One that cannot say how many comes ahead of all, to be refused aloud."""

    def steps(path: Path) -> float:
        try:
            return float(read_checkpoint(path, stage).get("global_step", math.inf))
        except CheckpointError:
            return math.inf

    # The files' times decide among equals only: a clock may be set back, and the nodes of a cluster have several.
    return sorted(paths, key=lambda path: (steps(path), path.stat().st_mtime_ns), reverse=True)


def _option(path: Path) -> str:
    return f"--ckpt_path {shlex.quote(str(path))}"


def _others(paths: Iterable[Path], stage: Stage) -> str:
    newest = _furthest(paths, stage)
    return f"the newest that there is: {_option(newest[0])}" if newest else "leave the option out to begin anew"


def _offer(path: Path, stage: Stage) -> str:
    for other in _furthest(path.parent.glob("*.ckpt"), stage):
        try:
            read_checkpoint(other, stage)
            _check_sums(other)
        except CheckpointError:
            continue
        return f"the newest sound one beside it: {_option(other)}"
    return "no sound one lies beside it; leave the option out to begin anew in another folder"
