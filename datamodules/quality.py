"""Which clip is shown in which quality: the HQ : LQ = 1 : 1 of the Mixed-Quality benchmark, and its other views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from datamodules.degradation.kinds import (
    DEGRADATIONS,
    SEVERITIES,
    UNSEEN,
    check_degradation,
    fixed_degradation,
    sample_degradation,
)
from stvg_nst.results.conditions import MIXED
from stvg_nst.seeding import derive_seed
from stvg_nst.types import Degradation, Kernels, Quality

EvaluationConditions = Literal["mixed", "matrix", "unseen"] | list[str]

HIGH, DRAWN = "HQ", "LQ"
_NAMED = {
    MIXED: (HIGH, DRAWN),
    "matrix": (HIGH, *(f"{kind}:{severity}" for kind in DEGRADATIONS for severity in SEVERITIES)),
    "unseen": (HIGH, *(f"{kind}:{severity}" for kind in UNSEEN for severity in SEVERITIES)),
}


def expand_conditions(chosen: EvaluationConditions) -> tuple[str, ...]:
    """The conditions in which a test shows every clip.

    Args:
        chosen: ``mixed``, the benchmark's own HQ and drawn LQ; ``matrix``, HQ and every kind of D-1.0 at every
            severity; ``unseen``, the same with the kinds that D-1.1 adds; or a list of ``HQ``, ``LQ``, ``kind`` (at
            every severity) and ``kind:severity``.

    Returns:
        ``HQ``, ``LQ`` and ``kind:severity``, each at most once.

    Raises:
        ValueError: there is none, one is unknown or given twice, or ``LQ`` is given beside a chosen degradation, which
            may be the one that is drawn for a clip.
    """
    if isinstance(chosen, str):
        return _NAMED[chosen]
    expanded = [name for entry in chosen for name in _expand(entry)]
    if not expanded or len(set(expanded)) < len(expanded):
        raise ValueError(f"evaluation_conditions must name at least one condition, and each once, got {chosen}")
    if DRAWN in expanded and not {HIGH, DRAWN} >= set(expanded):
        raise ValueError(f"LQ is drawn from all degradations and cannot be given beside chosen ones, got {chosen}")
    return tuple(expanded)


def conditions_name(conditions: Sequence[str]) -> str:
    """``mixed``, ``matrix`` or the conditions themselves: what results are compared by."""
    names = (name for name, members in _NAMED.items() if members == tuple(conditions))
    return next(names, "+".join(conditions))


def shows_unseen(conditions: Sequence[str]) -> bool:
    """Whether some expanded condition is of a kind that D-1.1 adds."""
    return any(condition.partition(":")[0] in UNSEEN for condition in conditions)


def _expand(entry: str) -> list[str]:
    if entry in (HIGH, DRAWN):
        return [entry]
    kind, colon, severity = entry.partition(":")
    severities = [severity] if colon else [str(s) for s in SEVERITIES]
    for value in severities:
        if not value.isdecimal():
            raise ValueError(f"a condition is HQ, LQ, kind or kind:severity such as defocus:3, got '{entry}'")
        check_degradation(kind, int(value))
    return [f"{kind}:{int(value)}" for value in severities]


@dataclass(frozen=True, slots=True)
class Draw:
    """One sample to load: a record's index and the degradation of its clip, ``None`` for HQ.

    ``chance`` seeds the augmentation of a training sample; ``None`` for a sample that is shown as it is. ``extra`` are
    the draws of clips that come with a training sample for their quality alone.
    """

    index: int
    degradation: Degradation | None
    chance: int | None = None
    extra: tuple[Draw, ...] = ()

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
        kernels: whether the degradations scale with the short side of the frames.
        left_out: kinds that training never draws; an evaluation shows them as ever.
    """

    benchmark_seed: int
    mixed: bool = True
    variants: int | None = None
    kernels: Kernels = "relative"
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.variants is not None and self.variants < 1:
            raise ValueError(f"variants must be at least 1, or null for fresh degradations, got {self.variants}")
        if self.left_out and (not self.mixed or not set(self.left_out) < set(DEGRADATIONS)):
            raise ValueError(
                f"left_out_kinds must name some of {', '.join(DEGRADATIONS)}, not all, of a training that degrades "
                f"clips (mixed), got {', '.join(self.left_out)} and mixed {self.mixed}; correct "
                "--data.init_args.left_out_kinds"
            )

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
        is_low_quality = (np.argsort(halves) + epoch) % 2
        high = [int(index) for index in order if is_low_quality[index] == 0]
        low = [int(index) for index in order if is_low_quality[index] == 1]

        draws = []
        for position in range(max(len(high), len(low))):
            draws += [Draw(index, None) for index in high[position : position + 1]]
            draws += [
                Draw(index, self._training_degradation(clip_ids[index], seed, epoch))
                for index in low[position : position + 1]
            ]
        return tuple(draws)

    def extra(self, clip_ids: Sequence[str], beside: Draw, *, count: int, seed: int, epoch: int) -> tuple[Draw, ...]:
        """Clips that come with a training sample for their quality alone: as many HQ as LQ beside an HQ and an LQ one.

        Args:
            clip_ids: that they are drawn from, and that their indices count.
            beside: the training sample.
            count: of them; the first is of the other quality than the sample, the next of its own, and so on.
            seed: of the run.
        """
        draws = []
        for number in range(count):
            own_seed = derive_seed("extra", seed, epoch, beside.index, number)
            index = own_seed % len(clip_ids)
            is_low_quality = (beside.quality is Quality.HQ) == (number % 2 == 0)
            degradation = self._training_degradation(clip_ids[index], own_seed, epoch) if is_low_quality else None
            draws.append(Draw(index, degradation))
        return tuple(draws)

    def evaluation(
        self,
        clip_ids: Sequence[str],
        conditions: Sequence[str] = _NAMED[MIXED],
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[Draw, ...]:
        """Every record in every condition, in their order; of several processes, each gets every ``world_size``-th."""
        return tuple(
            Draw(index, self.degradation_in(condition, clip_ids[index]))
            for index in range(rank, len(clip_ids), world_size)
            for condition in conditions
        )

    def degradation_in(self, condition: str, clip_id: str) -> Degradation | None:
        """What a clip goes through in a condition, ``None`` in HQ: fixed for ever by the benchmark's seed."""
        if condition == HIGH:
            return None
        if condition == DRAWN:
            return self.evaluation_degradation(clip_id)
        kind, severity = condition.split(":")
        return fixed_degradation(self.benchmark_seed, clip_id, kind, int(severity), kernels=self.kernels)

    def evaluation_degradation(self, clip_id: str) -> Degradation:
        """The LQ version of the benchmark."""
        return sample_degradation("evaluation", self.benchmark_seed, clip_id, kernels=self.kernels)

    def variant(self, clip_id: str, variant: int) -> Degradation:
        """Degraded variant number ``variant`` of a training clip."""
        return sample_degradation("variant", self.benchmark_seed, clip_id, variant, kernels=self.kernels)

    def trained_variants(self, clip_id: str) -> tuple[Degradation, ...]:
        """The degraded variants of a clip that training draws from: all but those of a kind that is left out."""
        variants = (self.variant(clip_id, number) for number in range(self.variants or 0))
        return tuple(variant for variant in variants if variant.kind not in self.left_out)

    def lacks_variants(self, clip_id: str) -> bool:
        """Whether a clip has fixed variants, and all are of kinds that are left out."""
        return bool(self.variants) and not self.trained_variants(clip_id)

    def require_variants(self, clip_ids: Sequence[str]) -> None:
        """Refuses training clips of whose fixed variants none is left.

        Raises:
            ValueError: there are such clips.
        """
        lacking = [clip_id for clip_id in clip_ids if self.lacks_variants(clip_id)]
        if lacking:
            raise ValueError(
                f"without {', '.join(self.left_out)}, none of the {self.variants} degraded variants is left of "
                f"{len(set(lacking))} training clips, the first '{lacking[0]}'; raise --data.init_args.variants, with "
                "a cache of features in a folder of its own, or degrade anew: variants null and features null"
            )

    def _training_degradation(self, clip_id: str, seed: int, epoch: int) -> Degradation:
        if self.variants is None:
            return sample_degradation("training", seed, clip_id, epoch, kernels=self.kernels, left_out=self.left_out)
        variants = self.trained_variants(clip_id)
        return variants[derive_seed("variant", seed, clip_id, epoch) % len(variants)]
