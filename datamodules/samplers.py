"""The order in which loaders deal draws: the same whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from torch.utils.data import Sampler

from datamodules.quality import Draw, MixedQualityPlan
from stvg_nst.seeding import derive_seed


class TrainingSampler(Sampler[Draw]):
    """Deals each process pairs of one HQ and one LQ draw, the same number to each.

    Args:
        dealt: tells how many draws the process has had of the epoch already.
    """

    def __init__(
        self,
        plan: MixedQualityPlan,
        clip_ids: Sequence[str],
        seed: int,
        rank: int,
        world_size: int,
        *,
        augmented: bool = False,
        dealt: Callable[[], int] = lambda: 0,
    ) -> None:
        self._plan, self._clip_ids, self._seed, self._augmented = plan, clip_ids, seed, augmented
        self._rank, self._world_size, self._dealt = rank, world_size, dealt
        self._epoch, self._start = 0, 0

    def go_on(self) -> None:
        """Deals, from now on, what is left of the epoch."""
        self._start = self._dealt()

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._clip_ids) // (2 * self._world_size) * 2

    def __iter__(self) -> Iterator[Draw]:
        yield from islice(self._draws(), self._start, None)

    def _draws(self) -> Iterator[Draw]:
        draws = self._plan.training(self._clip_ids, seed=self._seed, epoch=self._epoch)
        for first in range(0, len(self), 2):
            start = first * self._world_size + 2 * self._rank
            for draw in draws[start : start + 2]:
                chance = derive_seed("augmentation", self._seed, self._epoch, draw.index)
                yield replace(draw, chance=chance) if self._augmented else draw


class EvaluationSampler(Sampler[Draw]):
    """Deals one process its draws; none is repeated to even the shares of several out."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        self._draws = draws

    def __len__(self) -> int:
        return len(self._draws)

    def __iter__(self) -> Iterator[Draw]:
        return iter(self._draws)
