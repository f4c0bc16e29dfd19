"""Where the initial values of adapters come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stvg_nst.seeding import derive_seed


def own_or_run_seed(seed: int | None) -> int:
    """The seed that a recipe names, or the run's where it names none."""
    return torch.initial_seed() if seed is None else seed


@contextmanager
def drawn(seed: int | None, name: str) -> Iterator[None]:
    """Draw by a recipe's seed and a name, on the CPU: the same values on any device.

    The global generator stays where it was.
    """
    derived = derive_seed(own_or_run_seed(seed), name)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derived)
        yield
