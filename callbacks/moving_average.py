"""An exponential moving average of what is trained, which is what is evaluated and kept."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor

from stvg_nst.module import GroundingModule


class MovingAverage(lightning.Callback):
    """Averages the trained parameters over the steps; validation sees the average, and so does the finished fit.

    AdapterCheckpoint writes the average, not the last step. The state to resume from holds both. A parameter that a
    model holds under two names counts once; the original CG-STVG averages its shared heads twice a step, as if their
    decay were squared. A direction that AdaLoRA has pruned is zero in the average, too.

    Args:
        decay: what the average keeps of itself in each step, in [0, 1).

    Source: CG-STVG (Gu et al., CVPR 2024), 0.9998.
    """

    def __init__(self, decay: float = 0.9998) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must lie in [0, 1), got {decay}")
        self.decay = decay
        self._averages: dict[str, Tensor] = {}
        self._trained: dict[str, Tensor] = {}
        self._last_step = 0

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        trained = _trained_parameters(pl_module)
        if self._averages and self._averages.keys() != trained.keys():
            different = sorted(self._averages.keys() ^ trained.keys())[:5]
            raise ValueError(
                f"the checkpoint averages {len(self._averages)} parameters, but {len(trained)} are trained; the first "
                f"that differ: {different}; resume with the configuration of the interrupted run"
            )
        start = self._averages or trained
        self._averages = {name: start[name].detach().to(value.device, copy=True) for name, value in trained.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step == self._last_step:  # gradients are still being accumulated
            return
        self._last_step = trainer.global_step
        for name, value in _trained_parameters(pl_module).items():
            self._averages[name].lerp_(value.detach(), 1 - self.decay)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self._show_average(pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.state.fn == "fit":
            _fill(pl_module, self._trained)
            self._trained = {}

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint goes on from the trained values, though within a validation and at the end the average shows."""
        if self._trained:
            trained = {parameter: self._trained[name] for name, parameter in _trained_parameters(pl_module).items()}
            # Under each of its names: of a parameter that a checkpoint holds twice, the last one is what is loaded.
            for name, parameter in pl_module.named_parameters(remove_duplicate=False):
                if parameter in trained and name in checkpoint["state_dict"]:
                    checkpoint["state_dict"][name] = trained[parameter]

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._show_average(pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Again: Lightning skips ``on_train_end`` in a fit that is resumed after its last step."""
        if not self._trained:
            self._show_average(pl_module)
        self._trained = {}

    def _show_average(self, module: lightning.LightningModule) -> None:
        """Put the average in the place of what was trained, which is kept aside."""
        self._trained = {name: value.detach().clone() for name, value in _trained_parameters(module).items()}
        _fill(module, self._averages)
        if isinstance(module, GroundingModule):
            module.tuner.after_averaging(module.grounder)

    def state_dict(self) -> dict[str, Any]:
        return {"averages": self._averages, "last_step": self._last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._averages = state_dict["averages"]
        self._last_step = state_dict["last_step"]


def _trained_parameters(module: lightning.LightningModule) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _fill(module: lightning.LightningModule, values: dict[str, Tensor]) -> None:
    for name, parameter in _trained_parameters(module).items():
        parameter.copy_(values[name])
