"""Which clip is shown in which quality: the HQ : LQ = 1 : 1 of the Mixed-Quality benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.degradations import sample_degradation
from stvg_nst.seeding import derive_seed
from stvg_nst.types import Degradation, Quality


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample to load: a record's index and the degradation of its clip, ``None`` for HQ.

    ``chance`` seeds the augmentation of a training sample; ``None`` for a sample that is shown as it is.
    """

    index: int
    degradation: Degradation | None
    chance: int | None = None

    @property
    def quality(self) -> Quality:
        return Quality.HQ if self.degradation is None else Quality.LQ


@dataclass(frozen=True, slots=True)
class MixedQualityPlan:
    """Assigns qualities and degradations as a pure function of seeds and names.

    Args:
        benchmark_seed: fixes the evaluation's degradations, and the variants below; no run changes it.
        mixed: train on HQ and LQ 1 : 1; otherwise on HQ only.
        variants: ``None`` draws a fresh degradation for every sample of training; a number K draws from K fixed
            degraded variants of each clip instead, which is what makes frozen features cacheable.
    """

    benchmark_seed: int
    mixed: bool = True
    variants: int | None = None

    def __post_init__(self) -> None:
        if self.variants is not None and self.variants < 1:
            raise ValueError(f"variants must be at least 1, or null for fresh degradations, got {self.variants}")

    def training(self, clip_ids: Sequence[str], *, seed: int, epoch: int) -> tuple[Draw, ...]:
        """One epoch: every record once, half of them HQ and half LQ, alternating in the order of loading.

        A record that is HQ in one epoch is LQ in the next.

        Args:
            clip_ids: the clip of each record.
            seed: of the run.
        """
        order = np.random.default_rng(derive_seed("order", seed, epoch)).permutation(len(clip_ids))
        if not self.mixed:
            return tuple(Draw(int(index), None) for index in order)
        halves = np.random.default_rng(derive_seed("halves", seed)).permutation(len(clip_ids))
        low_rank = (np.argsort(halves) + epoch) % 2
        high = [int(index) for index in order if low_rank[index] == 0]
        low = [int(index) for index in order if low_rank[index] == 1]

        draws = []
        for position in range(max(len(high), len(low))):
            draws += [Draw(index, None) for index in high[position : position + 1]]
            draws += [
                Draw(index, self._training_degradation(clip_ids[index], seed, epoch))
                for index in low[position : position + 1]
            ]
        return tuple(draws)

    def evaluation(self, clip_ids: Sequence[str], *, rank: int = 0, world_size: int = 1) -> tuple[Draw, ...]:
        """Every record in both qualities, HQ before LQ; of several processes, each gets every ``world_size``-th."""
        return tuple(
            draw
            for index in range(rank, len(clip_ids), world_size)
            for draw in (Draw(index, None), Draw(index, self.evaluation_degradation(clip_ids[index])))
        )

    def evaluation_degradation(self, clip_id: str) -> Degradation:
        return sample_degradation("evaluation", self.benchmark_seed, clip_id)

    def variant(self, clip_id: str, variant: int) -> Degradation:
        """Degraded variant number ``variant`` of a training clip."""
        return sample_degradation("variant", self.benchmark_seed, clip_id, variant)

    def _training_degradation(self, clip_id: str, seed: int, epoch: int) -> Degradation:
        if self.variants is None:
            return sample_degradation("training", seed, clip_id, epoch)
        return self.variant(clip_id, derive_seed("variant", seed, clip_id, epoch) % self.variants)
