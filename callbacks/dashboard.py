"""The run's event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from stvg_nst.best_effort import BestEffort
from stvg_nst.results.metric_names import MAIN

# What the page "Custom Scalars" shows, over all runs: each chart holds the tags that one of its patterns finds.
LAYOUT = {
    "Does it restore, does it forget? (points of m_vIoU)": {
        "LQ: what is restored": ["Multiline", [f"(val|test)/LQ/{MAIN}$"]],
        "HQ: what is forgotten": ["Multiline", [f"(val|test)/HQ/{MAIN}$"]],
        "WAS: gain on LQ minus loss on HQ": ["Multiline", [f"(val|test)/WAS/{MAIN}$"]],
    },
    "Does the gate tell them apart?": {
        "mean gate on clean and on degraded clips": ["Multiline", ["gates/mean_HQ", "gates/mean_LQ"]],
        "AUROC, all kinds": ["Multiline", ["gates/auroc$"]],
        "AUROC by kind of degradation": ["Multiline", ["auroc_by_kind/.*"]],
    },
    "What do the branches add?": {
        "energy of the row branch, which the layer sees": ["Multiline", ["energy/row"]],
        "energy of the null branch, which it cannot see": ["Multiline", ["energy/null"]],
        "gradient of the row and of the null head": ["Multiline", ["gradient_norm/(row|null)_head"]],
    },
}


class Dashboard(TensorBoardLogger):
    """Writes TensorBoard's event files. Where they cannot be written, the run goes on without them.

    Each file brings the layout of the page "Custom Scalars" along, where the runs of a folder are compared.

    Args:
        save_dir: folder of the run.
        name, version: of a folder below it; by default there is none.
    """

    def __init__(self, save_dir: str, name: str | None = "", version: int | str | None = "", **options: Any) -> None:
        super().__init__(save_dir, name, version, **options)
        self._best_effort = BestEffort(f"TensorBoard's event file in '{save_dir}'")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        is_new = self._experiment is None
        writer = super().experiment
        if is_new:
            with self._best_effort:
                writer.add_custom_scalars(LAYOUT)
        return writer

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
