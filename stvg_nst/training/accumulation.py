"""The gradient of an optimiser step: the mean over the samples of all batches that it gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer


class SampleMeanModule(lightning.LightningModule):
    """Weighs the batches of a step by their samples, over all batches that it gathers and over all processes.

    Lightning divides each loss by ``accumulate_grad_batches`` and DDP by the number of processes, whatever the batches
    hold. With four batches a step and five an epoch, the last step would follow a quarter of its gradient; and a batch
    of one sample would weigh as much as one of eight. ``training_step`` returns a mean over the samples of its batch.
    What the step follows is what one batch of all these samples would give, for terms that are means over samples;
    terms with a divisor of their own, such as the number of boxes, have that of their batch.
    """

    _samples: int
    """Of this process's batch."""
    _mean_samples: float
    """Of the batches that the processes have at this moment."""

    def __init__(self) -> None:
        super().__init__()
        # By batch whose gradient is gathered, its mean samples over the processes.
        self._gathered: list[float] = []

    def _total_steps(self) -> int:
        """Optimiser steps of the whole fit, over which schedules and AdaLoRA's allocation are laid out.

        Raises:
            ValueError: nothing but a time bounds it.
        """
        trainer = self.trainer
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError(
                "the schedule is laid out over all steps, but neither --trainer.max_epochs nor --trainer.max_steps "
                "bounds them; give one of them, beside which --trainer.max_time may still end the fit earlier"
            )
        # Lightning counts as if every epoch gathered as many batches a step as this moment's setting says.
        for changing in getattr(trainer, "callbacks", ()):
            if isinstance(changing, GradientAccumulationScheduler) and trainer.max_epochs != -1:
                gathered = (changing.get_accumulate_grad_batches(epoch) for epoch in range(trainer.max_epochs or 0))
                steps = sum(math.ceil(trainer.num_training_batches / count) for count in gathered)
                steps = steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)
        return int(steps)

    def on_train_start(self) -> None:
        wanted, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if wanted > batches:
            rank_zero_warn(
                f"--trainer.accumulate_grad_batches {wanted} is more than an epoch has: a step never gathers more than "
                f"the {batches} batch(es) of one epoch"
            )

    def on_train_batch_start(self, batch: Sized, batch_idx: int) -> None:
        self._samples = len(batch)
        samples = torch.tensor(float(self._samples), device=self.device)
        self._mean_samples = float(self.trainer.strategy.reduce(samples, reduce_op="mean"))

    def on_before_zero_grad(self, optimizer: Optimizer) -> None:
        self._gathered = []

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._gathered.append(self._mean_samples)
        # In units of the first batch, so that nothing is rounded where all batches are of one size.
        super().backward(loss * (self._samples / self._gathered[0]), *args, **kwargs)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        assert optimizer_closure is not None

        def closure() -> Any:
            # In here, so that callbacks and the clipping of the gradient see the one that is followed.
            loss = optimizer_closure()
            self._average(optimizer)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def _average(self, optimizer: Optimizer | LightningOptimizer) -> None:
        """From a sum over weighed batches, as a share of ``accumulate_grad_batches``, to the mean over samples."""
        weight = sum(samples / self._gathered[0] for samples in self._gathered)
        factor = self.trainer.accumulate_grad_batches / weight
        if factor == 1:
            return
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad *= factor
