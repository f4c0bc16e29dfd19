"""Where the initial values of adapters come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from stvg_nst.seeding import derive_seed


@contextmanager
def drawn(seed: int, name: str) -> Iterator[None]:
    """Draw by seed and name on the CPU: the same values on any device, and the global generator stays where it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(derive_seed(seed, name))
        yield
