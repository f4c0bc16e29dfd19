"""The run's event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from stvg_nst.best_effort import BestEffort


class Dashboard(TensorBoardLogger):
    """Writes TensorBoard's event files. Where they cannot be written, the run goes on without them.

    Args:
        save_dir: folder of the run.
        name, version: of a folder below it; by default there is none.
    """

    def __init__(self, save_dir: str, name: str | None = "", version: int | str | None = "", **options: Any) -> None:
        super().__init__(save_dir, name, version, **options)
        self._best_effort = BestEffort(f"TensorBoard's event file in '{save_dir}'")

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with self._best_effort:
            try:
                super().log_metrics(metrics, step)
            except ValueError as error:  # Lightning's word for whatever has failed: its cause says what
                raise (error.__cause__ or error) from None

    @rank_zero_only
    def save(self) -> None:
        with self._best_effort:
            super().save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        with self._best_effort:
            super().finalize(status)
