"""What numbers were measured under: those of different conditions do not compare. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

MIXED = "mixed"
"""Every clip in HQ, and in the one LQ version that the benchmark draws for it: the benchmark's own test."""


class Conditions(NamedTuple):
    """Where a number comes from, as far as another one must share it to be compared.

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
