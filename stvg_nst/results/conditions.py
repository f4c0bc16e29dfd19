"""What numbers were measured under: those of different conditions do not compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

MIXED = "mixed"
"""Every clip in HQ, and in the one LQ version that the benchmark draws for it: the benchmark's own test."""


SYNTHETIC = "SYNTHETIC"
"""Behind the name of a data set that was made up in a published layout; a file of this name marks its folder."""


class Conditions(NamedTuple):
    """What two numbers must share to be compared.

    Args:
        dataset, split: what was measured on.
        benchmark_seed: of the draws of the LQ versions.
        shown: in which conditions each clip was: ``mixed``, ``matrix`` (HQ, and every kind at every severity), or those
            that were chosen, such as ``HQ+defocus:3``.
    """

    dataset: str
    split: str
    benchmark_seed: int
    shown: str = MIXED

    @property
    def is_synthetic(self) -> bool:
        """Whether the data set was made up: then a number says that something runs, and nothing else."""
        return SYNTHETIC in self.dataset.split(", ")

    def __str__(self) -> str:
        shown = "" if self.shown == MIXED else f", shown in {self.shown}"
        return f"{self.dataset} {self.split}, benchmark seed {self.benchmark_seed}{shown}"


def name_draws(conditions: Sequence[Conditions]) -> str:
    """In words, conditions that differ in the draw of the benchmark only; at least one.

    >>> name_draws([Conditions("MiniSTVG", "test", 0), Conditions("MiniSTVG", "test", 1)])
    'MiniSTVG test, benchmark seeds 0 and 1'
    """
    seeds = [*dict.fromkeys(str(condition.benchmark_seed) for condition in conditions)]
    words = str(conditions[0])
    return words if len(seeds) == 1 else words.replace(f"seed {seeds[0]}", f"seeds {' and '.join(seeds)}", 1)


@dataclass(frozen=True, slots=True)
class Measurement:
    """How the answers behind a number were computed.

    The first three change a number by more than rounding: results that differ in one of them do not compare. The
    others change last digits only.

    Args:
        precision: of the trainer, such as ``32-true`` or ``bf16-mixed``.
        float32_products: type to which products of float32 matrices are rounded, ``ieee`` (not at all), ``tf32`` or
            ``bf16``.
        inference: how a clip is shown to the network, ``single_pass`` or ``two_pass``.
        float32_convolutions: the same as ``float32_products`` for convolutions; cuDNN rounds them to ``tf32`` unless it
            is told not to.
        compiled: whether torch.compile has rewritten the network.
        device: its kind, such as ``cpu`` or ``cuda``.
    """

    precision: str = "32-true"
    float32_products: str = "ieee"
    inference: str = "single_pass"
    float32_convolutions: str = "ieee"
    compiled: bool = False
    device: str = "cpu"

    def compares_with(self, other: Measurement) -> bool:
        return str(self) == str(other)

    def __str__(self) -> str:
        """In words, what others must share to be compared."""
        rounded = "" if self.float32_products == "ieee" else f" with products in {self.float32_products}"
        passes = "" if self.inference == "single_pass" else f", {self.inference}"
        return f"{self.precision}{rounded}{passes}"

    @property
    def last_digits(self) -> str:
        """In words, what can change last digits only."""
        rounded = "" if self.float32_convolutions == "ieee" else f", convolutions in {self.float32_convolutions}"
        return f"{self.device}{rounded}{', compiled' if self.compiled else ''}"


USUAL = Measurement()
"""The usual measurement, which tables do not mention."""


def name_measurement(measurements: Iterable[Measurement | None], *, usual: bool = False) -> str:
    """In words, how numbers that compare were measured, with a comma ahead; empty where it was as usual or not said.

    Args:
        usual: name what is as usual too.

    >>> name_measurement([Measurement(), None]), name_measurement([None, Measurement("bf16-mixed")])
    ('', ', measured in bf16-mixed')
    """
    said = next((found for found in measurements if found is not None), USUAL)
    return "" if said.compares_with(USUAL) and not usual else f", measured in {said}"
