"""Keeps what a tuner learned: one small file per run."""

from __future__ import annotations

import lightning
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from callbacks.keeper import Keeper
from callbacks.run import grounding_module, leaves_files, run_folder
from stvg_nst.counting import counted
from stvg_nst.results.run_folder import RunFile
from stvg_nst.training.loop_position import is_finished
from stvg_nst.tuning.adapter import save_adapter


class AdapterCheckpoint(Keeper):
    """Writes the adapter into the run's folder: ``adapter_last.safetensors`` after each validation, and
    ``adapter.safetensors`` once the fit is complete: a folder with this file holds a finished run.

    Args:
        overwrite: replace the adapter of an earlier finished run.
    """

    STAGE = "fit"
    FILES = (RunFile.ADAPTER,)
    TURN = 0

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, pl_module, RunFile.ADAPTER_LAST)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Behind every callback's ``on_fit_end``, in which an average may take the place of what was trained."""
        if stage != "fit":
            return
        if is_finished(trainer):
            self._save(trainer, pl_module, RunFile.ADAPTER)
        else:
            rank_zero_warn(
                f"the fit ended after {counted(trainer.global_step, 'step')}, before all that were asked for: there is "
                f"no {RunFile.ADAPTER}; go on from its last checkpoint with --ckpt_path last"
            )

    def _save(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, name: str) -> None:
        if leaves_files(trainer):
            module = grounding_module(pl_module)
            path = run_folder(trainer) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save_adapter(path, module.grounder, module.tuner)
