"""TensorBoard's HPARAMS page: one row per run, what it was given beside what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
from torch.utils.tensorboard.summary import hparams

from callbacks.run import run_folder, tensorboard_writers
from stvg_nst import configuration
from stvg_nst.best_effort import BestEffort
from stvg_nst.results.metric_names import MAIN, VIEWS, MetricName
from stvg_nst.results.run_folder import RunFile

FIELDS = (
    "seed_everything",
    "model.tuner",
    "model.tuner.rank",
    "model.optimizer.lr",
    "model.optimizer.weight_decay",
    "trainer.max_epochs",
    "trainer.max_steps",
    "data",
    "data.batch_size",
)
METRICS = tuple(f"{stage}/{MetricName(view, MAIN)}" for stage in ("val", "test") for view in VIEWS)


class HyperparameterSummary(lightning.Callback):
    """Enters the run into TensorBoard's table of hyper-parameters, from the configuration saved in the run's folder.

    TensorBoard takes the table's columns from the first entry it meets, so every run declares the same fields and
    metrics, before any metric has a value. Lightning's own entry (``log_hyperparams``) has to log made-up values to do
    so, -1 by default; here the columns stay empty until the module logs scalars of these names.

    Args:
        fields: dotted names in the configuration, without ``init_args``; the name of a component means its class.
            What a run's configuration does not have is shown as "none".
        metrics: names of logged scalars.
    """

    def __init__(self, *, fields: Sequence[str] = FIELDS, metrics: Sequence[str] = METRICS) -> None:
        self.fields = tuple(fields)
        self.metrics = tuple(metrics)

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._declare(trainer)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._declare(trainer)

    def _declare(self, trainer: lightning.Trainer) -> None:
        writers = tensorboard_writers(trainer)
        if not writers:
            return
        config = read_config(run_folder(trainer))
        values = {field: look_up(config, field) for field in self.fields}
        with BestEffort("the hyper-parameters in TensorBoard"):
            for writer in writers:
                # Of the second argument only the keys are used.
                for summary in hparams(values, dict.fromkeys(self.metrics, 0.0)):
                    writer._get_file_writer().add_summary(summary)


def read_config(folder: Path) -> Mapping[str, Any]:
    """The configuration that made the run: of its fit, or of its test where nothing was fitted.

    Raises:
        FileNotFoundError: the folder holds neither.
    """
    for name in (RunFile.CONFIG, RunFile.TEST_CONFIG):
        if (folder / name).exists():
            return configuration.read_yaml(folder / name)
    raise FileNotFoundError(
        f"expected {RunFile.CONFIG} or {RunFile.TEST_CONFIG} in '{folder}', as the command line saves "
        "them; start the run with `python -m stvg_nst`, or leave the callback HyperparameterSummary out"
    )


def look_up(config: Mapping[str, Any], field: str) -> str | int | float | bool:
    """The value of a dotted name, as TensorBoard can show it; "none" where there is no such name.

    >>> look_up({"model": {"tuner": {"class_path": "stvg_nst.tuning.LoRA", "init_args": {"rank": 4}}}}, "model.tuner")
    'LoRA'
    """
    value = configuration.look_up(config, field)
    if isinstance(value, Mapping) and "class_path" in value:
        return str(value["class_path"]).rpartition(".")[2]
    if value is None:
        return "none"
    return value if isinstance(value, str | int | float | bool) else str(value)
