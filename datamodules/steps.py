"""Optimiser steps: how many batches make one up, and what all of them hold together."""

from __future__ import annotations

from collections.abc import Callable

import lightning

from datamodules.quality import Draw
from datamodules.samplers import TrainingSampler
from stvg_nst.types import StepTotals


def batches_of_effective_batch(effective_batch: int, *, batch_size: int, processes: int) -> int:
    """How many batches each process gathers, so that a step follows ``effective_batch`` clips in all.

    Raises:
        ValueError: no number of batches gives so many clips.
    """
    at_once = batch_size * processes
    if effective_batch % at_once == 0:
        return effective_batch // at_once
    share, rest = divmod(effective_batch, processes)
    fitting = ", ".join(str(size) for size in range(1, share + 1) if share % size == 0)
    raise ValueError(
        f"--data.init_args.effective_batch {effective_batch} is no multiple of the {at_once} clips that {processes} "
        f"process(es) take at once with --data.init_args.batch_size {batch_size}; give "
        + ("another number of devices or nodes" if rest or not share else f"a batch_size of {fitting}")
    )


def describe_step(trainer: lightning.Trainer, batch_size: int) -> str:
    """What an optimiser step follows, in words."""
    processes, gathered, nodes = trainer.world_size, trainer.accumulate_grad_batches, trainer.num_nodes
    where = f"{processes} process{'es' * (processes > 1)}" + (f" on {nodes} nodes" if nodes > 1 else "")
    return (
        f"a step of the optimiser follows {batch_size * processes * gathered} clips: {where}, {batch_size} clip(s) in "
        f"a batch of each, {gathered} batch(es) gathered; precision {trainer.precision}"
    )


class StepCounter:
    """Counts what the divisors of the objective need of a whole step, before any of it is loaded.

    Args:
        sampler: that deals the draws.
        count_boxes: the true boxes of a draw that teach.
        batches_of_step: which of a process's batches belong to the step of a batch.
    """

    def __init__(
        self, sampler: TrainingSampler, count_boxes: Callable[[Draw], int], batches_of_step: Callable[[int], range]
    ) -> None:
        self._sampler, self._count_boxes, self._batches_of_step = sampler, count_boxes, batches_of_step
        self._counted: tuple[tuple[int, range], StepTotals] | None = None

    def __call__(self, batch: int) -> StepTotals | None:
        """Of the step that a batch of this process belongs to; ``None`` where the batch is the whole step."""
        batches = self._batches_of_step(batch)
        if len(batches) == 1 and self._sampler.num_replicas == 1:
            return None
        step = (self._sampler.epoch, batches)
        if self._counted is None or self._counted[0] != step:
            draws = self._sampler.dealt_in(batches)
            self._counted = step, StepTotals(clips=len(draws), boxes=sum(map(self._count_boxes, draws)))
        return self._counted[1]
