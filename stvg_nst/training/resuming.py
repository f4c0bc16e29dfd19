"""What a fit trains by: kept in its checkpoints, and compared before anything goes on from one of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer

from stvg_nst.configuration import differences
from stvg_nst.counting import counted
from stvg_nst.results.run_folder import RunFile
from stvg_nst.training.checkpoints import read_checkpoint
from stvg_nst.training.loop_position import is_finished, recount_batches
from stvg_nst.training.settings import clips_of_a_batch, training_settings

Policy = Literal["refuse", "continue"]

_KEY = "settings"


class ChangedSettingsError(ValueError):
    """A fit would go on by other settings than those that it has been trained by."""


class Resumption(Callback):
    """Refuses to go on from a checkpoint by other settings than its own, or lets the new ones take effect.

    What Lightning restores brings the old rates back, into the optimiser's groups and into the schedule. Where the user
    wants the new ones they are set again behind it, and the change stays in every checkpoint that follows.

    Args:
        config: of the fit, as its ``config.yaml`` says it.
        checkpoint: what it goes on from, ``None`` where it begins.
        policy: what to do where the settings differ.
        trusted: load it even if that could run code.
    """

    def __init__(
        self, config: Mapping[str, Any], checkpoint: Path | None, policy: Policy, *, trusted: bool = False
    ) -> None:
        self._config, self._checkpoint, self._policy, self._trusted = config, checkpoint, policy, trusted
        self._kept: dict[str, Any] = {}
        self._changes: list[str] = []
        self._groups_before: list[list[dict[str, Any]]] = []
        self._options: list[list[dict[str, Any]]] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares the settings.

        Raises:
            ChangedSettingsError: they differ, and the user has not said that the fit goes on by the new ones.
        """
        settings = training_settings(self._config, trainer)
        self._kept = {
            "trained_by": settings,
            "clips_of_a_batch": clips_of_a_batch(self._config, trainer),
            "changed": [],
        }
        if self._checkpoint is None:
            return
        checkpoint = read_checkpoint(self._checkpoint, trusted=self._trusted)
        kept = checkpoint.get(_KEY)
        if kept is None:
            self._changes = ["the checkpoint does not say what it was trained by: an older version wrote it"]
        else:
            self._changes = differences(kept["trained_by"], settings)
            self._kept["changed"] = list(kept["changed"])
        if not self._changes:
            return
        if self._policy == "refuse":
            raise ChangedSettingsError(
                f"'{self._checkpoint}' was trained by other settings: {'; '.join(self._changes)}; give the former ones "
                "again, or go on by the new ones with --changed_settings continue, or begin anew in another --run"
            )
        self._kept["changed"].append({"after_step": checkpoint["global_step"], "settings": self._changes})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[_KEY] = self._kept
        # A time limit is one of a command: were the time of those before counted in, a resumed one would take no step.
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer):
                checkpoint["callbacks"].pop(callback.state_key)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        before, now = checkpoint.get(_KEY, self._kept)["clips_of_a_batch"], self._kept["clips_of_a_batch"]
        recount_batches(checkpoint["loops"]["fit_loop"], before, now)
        self._groups_before = [state["param_groups"] for state in checkpoint["optimizer_states"]]
        limit, epoch = trainer.max_epochs, checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if limit is not None and 0 <= limit < epoch:
            raise ChangedSettingsError(
                f"'{self._checkpoint}' has had {counted(epoch, 'epoch')}, but --trainer.max_epochs is {limit}; "
                "give more"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the new options of the optimiser, which what is restored will overwrite.

        Raises:
            ChangedSettingsError: what the checkpoint holds of the optimiser is of no use to the new one.
        """
        if not self._changes:
            return
        for optimizer, before in zip(trainer.optimizers, self._groups_before, strict=True):
            now = optimizer.param_groups
            if [_shape(group) for group in now] != [_shape(group) for group in before]:
                raise ChangedSettingsError(
                    f"'{self._checkpoint}' cannot go on by another optimiser, or with other patterns of "
                    "--model.learning_rates, whatever --changed_settings says; begin anew in another --run"
                )
            self._options.append([{name: group[name] for name in group if name != "params"} for group in now])
        if trainer.is_global_zero:
            _keep_former_config(Path(trainer.default_root_dir), self._kept["changed"][-1]["after_step"])

    @torch.no_grad()
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sets the new options, at the rates that the new schedule has at this step."""
        for optimizer, options in zip(trainer.optimizers, self._options, strict=False):
            for group, new in zip(optimizer.param_groups, options, strict=True):
                group.update(new)
        for config in trainer.lr_scheduler_configs if self._options else ():
            scheduler: Any = config.scheduler
            scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
            factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
            for group, rate, factor in zip(scheduler.optimizer.param_groups, scheduler.base_lrs, factors, strict=True):
                group["lr"] = rate * factor
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Of a finished fit nothing is left that SLURM's next job, a test of it, would take for its state."""
        if stage == "fit" and trainer.is_global_zero and is_finished(trainer):
            for path in Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"):
                path.unlink()


def _shape(group: Mapping[str, Any]) -> tuple[int, set[str]]:
    """Of an optimiser's group: how many parameters it has, and by which options they are trained."""
    return len(group["params"]), {name for name in group if name != "params"}


def _keep_former_config(run: Path, step: int) -> None:
    """The configuration that the run had until now; ``config.yaml`` becomes the new one."""
    config, former = run / RunFile.CONFIG, run / f"config-until-step-{step}.yaml"
    if config.is_file() and not former.exists():
        shutil.copyfile(config, former)
