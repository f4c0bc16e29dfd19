"""The order in which loaders deal draws: the same whatever the number of processes.

Samplers are PyTorch's distributed ones by type: Lightning would deal each process a part of its own part otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from torch.utils.data import DistributedSampler

from datamodules.quality import Draw, MixedQualityPlan
from stvg_nst.seeding import derive_seed


class TrainingSampler(DistributedSampler[Draw]):
    """Deals whole batches in turn, the same number to each process, in which HQ and LQ draws alternate.

    A batch holds the same draws whichever process it is dealt to. What is left of an epoch, less than ``step_clips``
    draws, is shown in none.

    Args:
        batch_size: draws of a batch of one process.
        step_clips: draws that are dealt together or not at all, in all processes; by default a batch for each.
        dealt: tells how many draws the process has had of the epoch already.
        extra_clip_ids: clips that come with the draws for their quality alone; their indices follow those of
            ``clip_ids``.
        extra_clips: how many of them come with each draw.
    """

    def __init__(
        self,
        plan: MixedQualityPlan,
        clip_ids: Sequence[str],
        seed: int,
        rank: int,
        world_size: int,
        *,
        batch_size: int,
        step_clips: int | None = None,
        augmented: bool = False,
        dealt: Callable[[], int] = lambda: 0,
        extra_clip_ids: Sequence[str] = (),
        extra_clips: int = 0,
    ) -> None:
        super().__init__(clip_ids, num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self._plan, self._clip_ids, self._augmented = plan, clip_ids, augmented
        self._batch_size, self._step_clips = batch_size, step_clips or batch_size * world_size
        self._dealt, self._start = dealt, 0
        self._extra_clip_ids, self._extra_clips = extra_clip_ids, extra_clips
        self._planned: tuple[int, tuple[Draw, ...]] | None = None

    def go_on(self) -> None:
        """Deals, from now on, what is left of the epoch."""
        self._start = self._dealt()

    @property
    def batches_dealt(self) -> int:
        """How many batches of the epoch this process had before those that it is dealt now."""
        return self._start // self._batch_size

    def dealt_in(self, batches: range) -> tuple[Draw, ...]:
        """The draws of the epoch that all processes have in these of their batches."""
        at_once = self._batch_size * self.num_replicas
        return tuple(map(self._completed, self._epoch_plan()[batches.start * at_once : batches.stop * at_once]))

    def __len__(self) -> int:
        return len(self._clip_ids) // self._step_clips * (self._step_clips // self.num_replicas)

    def __iter__(self) -> Iterator[Draw]:
        yield from islice(self._draws(), self._start, None)

    def _draws(self) -> Iterator[Draw]:
        draws = self._epoch_plan()
        for first in range(0, len(self), self._batch_size):
            start = first * self.num_replicas + self._batch_size * self.rank
            yield from map(self._completed, draws[start : start + self._batch_size])

    def _epoch_plan(self) -> tuple[Draw, ...]:
        """The draws of all processes, made once an epoch: of VidSTG's 80,684 sentences that takes seconds."""
        if self._planned is None or self._planned[0] != self.epoch:
            self._planned = self.epoch, self._plan.training(self._clip_ids, seed=self.seed, epoch=self.epoch)
        return self._planned[1]

    def _completed(self, draw: Draw) -> Draw:
        """With what training adds to a draw: chance, and clips for their quality alone."""
        chance = derive_seed("augmentation", self.seed, self.epoch, draw.index) if self._augmented else None
        return replace(draw, chance=chance, extra=self._extra(draw))

    def _extra(self, draw: Draw) -> tuple[Draw, ...]:
        ids, count = self._extra_clip_ids, self._extra_clips
        drawn = self._plan.extra(ids, draw, count=count, seed=self.seed, epoch=self.epoch)
        return tuple(replace(extra, index=len(self._clip_ids) + extra.index) for extra in drawn)


class EvaluationSampler(DistributedSampler[Draw]):
    """Deals one process its draws; none is repeated to even the shares of several out."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        super().__init__(draws, num_replicas=1, rank=0)  # type: ignore[arg-type]
        self._draws = draws

    def __len__(self) -> int:
        return len(self._draws)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws)
