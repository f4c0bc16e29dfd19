"""What all callbacks see of a run: its folder, its dashboard, and the types behind Lightning's general ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import lightning
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from stvg_nst.conditions import Conditions
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


def refuse_finished(trainer: lightning.Trainer, path: Path, *, callback: str) -> None:
    """Stop a run on every rank, before any work is done, if its closing file is there already.

    Raises:
        FileExistsError: it is.
    """
    # Rank 0 looks for all: ranks that answered differently would wait for each other for ever.
    if trainer.strategy.broadcast(path.exists()):
        raise FileExistsError(
            f"'{path}' is there from a finished run; choose another folder with --run, delete the file, or set "
            f"overwrite of the callback {callback} to true"
        )
