"""What all callbacks see of a run: its folder, its dashboard, and the types behind Lightning's general ones."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import lightning
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from stvg_nst.results.conditions import Conditions
from stvg_nst.types import ClipInfo

if TYPE_CHECKING:
    from stvg_nst.module import GroundingModule


class GroundingData(Protocol):
    """What callbacks ask of a data module, whose package they never import."""

    seed: int

    def pixels(self, info: ClipInfo) -> np.ndarray:
        """The sampled frames of a clip as the network saw them, (T, H, W, 3) uint8, at the native size."""

    def provenance(self) -> dict[str, Any]:
        """What the pixels depend on; has its name ``dataset``, ``benchmark_seed`` and ``degradations``, a version."""

    def conditions(self, stage: str) -> Conditions:
        """What a stage measures under."""

    def degradations(self) -> dict[str, Any]:
        """What made the LQ clips: version, seed, where they came from, and hashes of the pixels."""

    def skipped(self, split: str) -> int:
        """Samples of a split that the data module leaves out, because their videos are bad."""

    def policies(self) -> dict[str, dict[str, Any]]:
        """What is done with faulty data, by option: its ``policy``, and what that has ``touched`` of each split."""


def grounding_module(pl_module: lightning.LightningModule) -> GroundingModule:
    return cast("GroundingModule", pl_module)


def grounding_data(trainer: lightning.Trainer) -> GroundingData:
    return cast("GroundingData", trainer.datamodule)  # type: ignore[attr-defined]  # Lightning sets it dynamically


def describe_epoch(trainer: lightning.Trainer) -> str:
    """Which epoch it is, of how many where that is known: a fit may end by its steps instead."""
    of = f" of {trainer.max_epochs}" if trainer.max_epochs is not None and trainer.max_epochs > 0 else ""
    return f"epoch {trainer.current_epoch + 1}{of}"


def leaves_files(trainer: lightning.Trainer) -> bool:
    """Whether this process writes the run's files: on rank 0, and not in Lightning's ``fast_dev_run`` rehearsal."""
    return trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]


def run_folder(trainer: lightning.Trainer) -> Path:
    """The folder of the run: ``default_root_dir``, which the command line sets to ``--run``."""
    return Path(trainer.default_root_dir)


def tensorboard_writers(trainer: lightning.Trainer) -> tuple[SummaryWriter, ...]:
    """The event writers of this process: none without a TensorBoard logger, and none on ranks other than 0."""
    if not trainer.is_global_zero:
        return ()
    return tuple(logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))


def require_room(trainer: lightning.Trainer, num_bytes: int) -> None:
    """Stop a run on every rank, before its first batch, if its folder cannot take what the run is to leave there.

    Raises:
        OSError: nothing can be written there, or not as much.
    """
    problem = _lacking_room(run_folder(trainer), num_bytes) if leaves_files(trainer) else None
    problem = trainer.strategy.broadcast(problem)
    if problem is not None:
        raise OSError(f"{problem}; make room, or choose another folder with --run")


def _lacking_room(folder: Path, num_bytes: int) -> str | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # permissions alone do not tell of a disk that is read-only
            file.write(bytes(4096))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"the run's folder '{folder}' cannot be written to ({error.strerror})"
    if free < num_bytes:
        return f"the run leaves about {num_bytes / 1e6:.0f} MB in '{folder}', where {free / 1e6:.0f} MB are free"
    return None
