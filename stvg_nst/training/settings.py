"""Which settings of a fit decide what is trained, as one mapping that can be compared with that of another fit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import Trainer

# Where a run lies, what it shows and what it measures. All else counts, so that a new option is not forgotten.
_WITHOUT_EFFECT = {
    "": {"run", "config", "ckpt_path", "weights_only", "changed_settings", "verbose", "table"},
    "model": {"adapter", "baseline", "encodings", "inference", "lambda_hq"},
    "model.tuner.init_args": {"spaces"},
    "data.init_args": {
        *("root", "manifest", "num_workers", "finish_on", "val_clips", "test_clips", "validation_half", "confirmation"),
    },
    "trainer": {
        *("accelerator", "strategy", "devices", "num_nodes", "plugins", "fast_dev_run", "max_time"),
        *("deterministic", "benchmark", "inference_mode", "detect_anomaly", "profiler", "barebones"),
        *("default_root_dir", "logger", "log_every_n_steps", "enable_autolog_hparams", "model_registry"),
        *("callbacks", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
        *("limit_val_batches", "limit_test_batches", "limit_predict_batches"),
        *("num_sanity_val_steps", "val_check_interval", "check_val_every_n_epoch"),
    },
}
# Options that older configurations lack, where they say what was so before there was a choice.
_AS_BEFORE = {"effective_batch": None, "annotated": True}
# Folders of what is computed ahead: that there is one counts, where it is does not.
PLACES = ("features", "frames", "degraded")
# Callbacks that train nothing.
_WATCHING = {
    *("AdapterCheckpoint", "HyperparameterSummary", "NullSpaceMonitor", "PredictionsWriter", "ResultsWriter"),
    *("TubeVisualizer", "ModelCheckpoint", "LearningRateMonitor", "RichProgressBar", "TQDMProgressBar"),
    *("RunProgress", "RunLog"),
    *("ModelSummary", "RichModelSummary", "DeviceStatsMonitor", "ThroughputMonitor", "Timer"),
}
_BATCH = "data.init_args.batch_size x processes x trainer.accumulate_grad_batches"


def training_settings(config: Mapping[str, Any], trainer: Trainer) -> dict[str, Any]:
    """What decides what is trained, of a trainer that is set up.

    Args:
        config: of the fit, all defaults included; plain values.
    """
    settings = settings_with_effect(config)
    data: dict[str, Any] = settings["data"]["init_args"]
    data |= {name: "a folder" for name in PLACES if data.get(name) is not None}
    data.pop("batch_size", None)
    settings["model"]["weights"] = _content(config["model"]["weights"])
    settings["trainer"]["precision"] = trainer.precision
    settings["trainer"].pop("accumulate_grad_batches")
    for callback in training_callbacks(config["trainer"]["callbacks"] or ()):
        settings["trainer"][callback["class_path"]] = callback.get("init_args", {})
    # By now an effective batch has set how many batches the trainer gathers.
    settings[_BATCH] = clips_of_a_batch(config, trainer) * trainer.accumulate_grad_batches
    settings["training clips"] = trainer.datamodule.training_fingerprint()  # type: ignore[attr-defined]
    return settings


def training_callbacks(callbacks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of a configuration that may train something: all but the ones that are known to watch only."""
    return [callback for callback in callbacks if callback["class_path"].rpartition(".")[2] not in _WATCHING]


def clips_of_a_batch(config: Mapping[str, Any], trainer: Trainer) -> int:
    """In all processes together."""
    return int(config["data"]["init_args"]["batch_size"]) * trainer.world_size


def settings_with_effect(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration, all defaults included, decides what is trained; but for where computed data lies."""
    return _with_effect(config, "")


def _with_effect(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    kept = {}
    for key, value in config.items():
        if key in _AS_BEFORE and value is _AS_BEFORE[key]:
            continue
        if key in _WITHOUT_EFFECT.get(name, ()) or (name == "data.init_args" and key.startswith("eval")):
            continue
        kept[key] = _with_effect(value, f"{name}.{key}".lstrip(".")) if isinstance(value, Mapping) else value
    return kept


def _content(weights: str) -> str:
    """The sum of pretrained weights: a file that has moved is the same, one that has changed is not."""
    if weights == "random":
        return weights
    with Path(weights).open("rb") as file:
        return f"sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"
