"""Where a run's numbers go besides its results: TensorBoard unless others are named, all in the folder of the run."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

DASHBOARD = "callbacks.Dashboard"
_LIGHTNING = "lightning.pytorch.loggers"
_TENSORBOARD = (f"{_LIGHTNING}.TensorBoardLogger", DASHBOARD)
_CSV, _WANDB = f"{_LIGHTNING}.CSVLogger", f"{_LIGHTNING}.WandbLogger"

_log = logging.getLogger(__name__)


def loggers_of_run(asked: Any, run: str) -> list[Namespace]:
    """The loggers of a run, each of which writes into its folder.

    Args:
        asked: ``--trainer.logger``: nothing or true for TensorBoard, or one logger or several by class.
        run: the folder.

    Raises:
        ValueError: one is no logger that is known here, or its package is not installed.
    """
    entries = asked if isinstance(asked, list) else [asked]
    loggers = [_logger_of_run(entry, run) for entry in entries]
    if all(logger.class_path != DASHBOARD for logger in loggers):
        _log.warning(
            "no TensorBoard among the loggers: pictures of tubes, histograms and the page of hyper-parameters are not "
            "drawn; a test leaves tubes.png all the same"
        )
    return loggers


def _logger_of_run(entry: Any, run: str) -> Namespace:
    name = entry if isinstance(entry, str) else getattr(entry, "class_path", entry)
    if name in (None, True, *_TENSORBOARD):
        return Namespace(class_path=DASHBOARD, init_args=Namespace(save_dir=run, name="", version=""))
    options = dict(vars(getattr(entry, "init_args", None) or Namespace()))
    if name == _CSV:
        # A folder of its own for each command: the logger empties the one that it gets.
        return Namespace(class_path=_CSV, init_args=Namespace(**{**options, "save_dir": run, "name": "csv"}))
    if name == _WANDB:
        if find_spec("wandb") is None:
            raise ValueError(f"--trainer.logger {_WANDB}: Weights & Biases is not installed; pip install wandb")
        named = options.get("name") or Path(run).name
        return Namespace(class_path=_WANDB, init_args=Namespace(**{**options, "save_dir": run, "name": named}))
    raise ValueError(
        f"--trainer.logger {name}: expected {_TENSORBOARD[0]}, {_CSV} or {_WANDB}, or a list of them; leave the option "
        "out for TensorBoard's"
    )
