"""What happens inside a tuned model: energies, leakage, gradients and gates, in TensorBoard."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import lightning
import torch
from torch import Tensor

from callbacks.run import grounding_module, tensorboard_writers
from stvg_nst.types import Batch, Quality

# Sub-modules of the quality-adaptive unit whose gradients tell its parts apart. The null head's is the regulariser's
# alone, for no task gradient passes an exact null space; where it is not small, the null space leaks.
PARTS = ("row_head", "null_head", "router")


class NullSpaceMonitor(lightning.Callback):
    """Logs a tuner's diagnostics; a tuner without any, and a model without the parts, log nothing.

    In training, every so many steps: each layer's diagnostics of the last forward (``nullspace/...``; the mean over the
    clips where there is a value per clip) and the gradient norm of each part over all layers (``gradient_norm/...``),
    after unscaling and before clipping. After each validation: the gates' histograms over clips and layers, by quality
    (``gates/HQ`` and ``gates/LQ``), and their means. In distributed runs these are the values of rank 0.

    Args:
        every_n_steps: optimiser steps between two entries.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._gates: dict[Quality, list[Tensor]] = defaultdict(list)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        writers = tensorboard_writers(trainer)
        if not writers or trainer.global_step % self.every_n_steps:
            return
        diagnostics = grounding_module(pl_module).tuner.diagnostics()
        values = {f"nullspace/{name}": value.float().mean() for name, value in diagnostics.items()}
        values |= {f"gradient_norm/{part}": norm for part, norm in gradient_norms(pl_module).items()}
        for writer in writers:
            for name, value in values.items():
                writer.add_scalar(name, value.item(), trainer.global_step)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._gates.clear()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not tensorboard_writers(trainer):
            return
        gates = [
            value.cpu()
            for name, value in grounding_module(pl_module).tuner.diagnostics().items()
            if name.startswith("gate/")
        ]
        if not gates:
            return
        gates_NB = torch.stack(gates)  # N wrapped layers
        qualities = batch.qualities.cpu()
        for quality in Quality:
            self._gates[quality].append(gates_NB[:, qualities == quality].flatten())

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        for quality, parts in self._gates.items():
            gates = torch.cat(parts)
            if not gates.numel():
                continue
            for writer in tensorboard_writers(trainer):
                writer.add_histogram(f"gates/{quality.name}", gates, trainer.global_step)
                writer.add_scalar(f"gates/mean_{quality.name}", gates.mean().item(), trainer.global_step)


def gradient_norms(model: torch.nn.Module) -> dict[str, Tensor]:
    """Euclidean norm of the gradients of each of :data:`PARTS` that has any, over all wrapped layers."""
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        for part in PARTS:
            if part in name.split(".") and parameter.grad is not None:
                gradients[part].append(parameter.grad.detach().float().norm())
    return {part: torch.stack(norms).norm() for part, norms in gradients.items()}
