"""The loader of training batches, which goes on within an epoch where a fit is resumed there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from datamodules.samplers import TrainingSampler
from stvg_nst.types import Clip


class TrainingLoader(DataLoader[Clip]):
    """Deals nothing before the first batch is asked for: by then Lightning knows the epoch, and what it has had of it.

    Lightning makes the iterator ahead of that, and workers would load what the first epoch begins with.
    """

    sampler: TrainingSampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.sampler.go_on()
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        """Empty, for the sampler asks Lightning for its place; Lightning takes a loader with a state for resumable."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
