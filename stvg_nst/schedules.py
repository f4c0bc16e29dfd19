"""Learning rates over the course of a training: a factor on each parameter group's own rate, step by step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from lightning.pytorch.utilities.rank_zero import rank_zero_warn


class Schedule(ABC):
    """What to multiply the rate of a parameter group with."""

    groups: Sequence[str] = ()
    """Patterns of the groups that it treats apart; the module must have a learning rate of each."""

    @abstractmethod
    def factor(self, group: str, step: int, total_steps: int) -> float:
        """The factor of a step.

        Args:
            group: the pattern of parameter names that makes the group, empty for the rest.
            step: finished steps, 0 for the first.
            total_steps: of the whole training.
        """

    def warn_of_length(self, total_steps: int) -> None:  # noqa: B027 (a hook; some schedules fit any length)
        """Say so where a training is too short for the schedule.

        Warns:
            UserWarning: the training ends before the schedule has done its part.
        """


class CosineSchedule(Schedule):
    """Rises linearly to 1, then falls as a cosine to 0.

    Args:
        warmup_steps: of the rise, 0 for none.

    Raises:
        ValueError: it is negative.
    """

    def __init__(self, warmup_steps: int = 0) -> None:
        _check_at_least(0, warmup_steps=warmup_steps)
        self.warmup_steps = warmup_steps

    def factor(self, group: str, step: int, total_steps: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    def warn_of_length(self, total_steps: int) -> None:
        if self.warmup_steps > total_steps:
            rank_zero_warn(
                f"the learning rates rise over {self.warmup_steps} steps, but the training has {total_steps}, and so "
                f"they end at {total_steps / self.warmup_steps:.0%} of what was asked for; lower warmup_steps, or "
                "train for longer"
            )


_WARM_UP = 0.01  # of all steps, in the original


class CGSTVGSchedule(Schedule):
    """The original's: some groups rise and fall linearly, the others drop to a tenth at given epochs.

    The very first step runs at the full rate, because the original sets the rates only after each step.

    Args:
        epochs: of the whole training; with ``drops`` it says after which steps the rates drop.
        drops: epochs at whose start the rate falls to a tenth.
        linear: patterns of the groups that rise and fall linearly instead.
        warm_up_all: the groups that drop rise first, too, as for VidSTG.

    Raises:
        ValueError: there is no epoch, or a drop lies outside [1, epochs].

    Source: CG-STVG (Gu et al., CVPR 2024), `multistep_with_warmup` (HC-STVG) and `multistep_with_warmup_all` (VidSTG).
    """

    def __init__(
        self,
        epochs: int,
        drops: Sequence[int],
        *,
        linear: Sequence[str] = (),
        warm_up_all: bool = False,
    ) -> None:
        _check_at_least(1, epochs=epochs)
        if outside := [drop for drop in drops if not 1 <= drop <= epochs]:
            raise ValueError(
                f"drops are epochs of the {epochs}, in [1, {epochs}], got {outside}; change "
                "--model.schedule.init_args.drops or .epochs"
            )
        self.epochs = epochs
        self.drops = drops
        self.groups = linear
        self.warm_up_all = warm_up_all

    def factor(self, group: str, step: int, total_steps: int) -> float:
        if step == 0:
            return 1.0
        warmup = round(_WARM_UP * total_steps)
        linear = group in self.groups
        if step < warmup and (linear or self.warm_up_all):
            return step / warmup
        if linear:
            return max(0, total_steps - step) / (total_steps - warmup)
        epoch = step // max(1, round(total_steps / self.epochs))
        return 0.1 ** sum(drop <= epoch for drop in self.drops)


class TubeDETRSchedule(Schedule):
    """The original's: some groups rise and fall linearly, the others drop to a tenth every so many epochs.

    The rates of a step follow from the number of the step before it, because the original sets them after each step. So
    the first step runs at the full rates, and in the second the linear groups stand still.

    Args:
        epochs: of the whole training; with ``drop_every`` it says after which steps the rates drop.
        drop_every: so many epochs.
        linear: patterns of the groups that rise and fall linearly instead.

    Raises:
        ValueError: a number is below 1.

    Source: TubeDETR (Yang et al., CVPR 2022), whose default is to drop after 10 epochs, and again after each 10 more.
    """

    def __init__(self, epochs: int, *, drop_every: int = 10, linear: Sequence[str] = ()) -> None:
        _check_at_least(1, epochs=epochs, drop_every=drop_every)
        self.epochs = epochs
        self.drop_every = drop_every
        self.groups = linear

    def factor(self, group: str, step: int, total_steps: int) -> float:
        if step == 0:
            return 1.0
        before = step - 1
        warmup = round(_WARM_UP * total_steps)
        if group not in self.groups:
            epoch = before // max(1, round(total_steps / self.epochs))
            return 0.1 ** (epoch // self.drop_every)
        if before < warmup:
            return before / warmup
        return max(0, total_steps - before) / (total_steps - warmup)


def _check_at_least(least: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{name} of the schedule must be at least {least}, got {number}")
