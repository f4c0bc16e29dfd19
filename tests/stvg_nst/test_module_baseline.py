from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from stvg_nst.losses import GroundingLoss
from stvg_nst.module import GroundingModule
from stvg_nst.results.conditions import Conditions, Measurement
from stvg_nst.results.results_file import ResultsFileError
from stvg_nst.tuning import ZeroShot

NAMES = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
RESULTS: dict[str, Any] = {
    "schema": 1,
    "method": "ZeroShot",
    "dataset": "MiniSTVG",
    "split": "test",
    "metrics": {f"{view}/{name}": 40.0 for view in ("HQ", "LQ", "MQ") for name in NAMES},
    "samples": [{"item_id": "a", "quality": "HQ"}],
    "seed": 0,
    "benchmark_seed": 3,
    "trainable_parameters": 0,
    "total_parameters": 9,
    "versions": {},
    "git_commit": None,
    "config_hash": "",
    "wall_seconds": 1.0,
    "skipped": 0,
}


class Data:
    """Stands for a data module that tests on the test split of the benchmark with seed 3."""

    cached_backbones = None

    def conditions(self, stage: str) -> Conditions:
        return Conditions("MiniSTVG", "test" if stage == "test" else "val", 3)


class Network(nn.Sequential):
    """Stands for a grounder without encoders."""

    encodings = None

    def backbones(self) -> tuple[nn.Module, ...]:
        return ()

    def objective(self) -> GroundingLoss:
        return GroundingLoss()

    def require_inference(self, protocol: str) -> None: ...


def module(baseline: Path) -> GroundingModule:
    grounder: Any = Network(nn.Linear(2, 2))
    made = GroundingModule(grounder, ZeroShot(), weights="random", baseline=baseline)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    made._trainer = SimpleNamespace(datamodule=Data(), precision="32-true", limit_val_batches=1, strategy=strategy)  # type: ignore[assignment]
    return made


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "results.json"
    path.write_text(json.dumps(RESULTS | changes))
    return path


def test_a_baseline_of_the_same_conditions_is_taken(tmp_path: Path) -> None:
    made = module(written(tmp_path))
    made.setup("test")
    assert made.metrics.baseline == RESULTS["metrics"]


@pytest.mark.parametrize(
    ("change", "stage", "message"),
    [
        ({"split": "val"}, "test", "on MiniSTVG val, benchmark seed 3, but this `test` measures on MiniSTVG test"),
        ({}, "fit", "on MiniSTVG test, benchmark seed 3, but this `fit` measures on MiniSTVG val"),
        (
            {"benchmark_seed": 0},
            "test",
            "benchmark seed 0, but this `test` measures on MiniSTVG test, benchmark seed 3",
        ),
        ({"dataset": "VidSTG"}, "test", "on VidSTG test, benchmark seed 3, but"),
        ({"evaluation_conditions": "matrix"}, "test", "benchmark seed 3, shown in matrix, but this"),
    ],
)
def test_a_baseline_of_other_conditions_is_refused(
    tmp_path: Path, change: dict[str, Any], stage: str, message: str
) -> None:
    made = module(written(tmp_path, **change))
    with pytest.raises(ValueError, match=message):
        made.setup(stage)


def test_a_baseline_of_another_grounder_is_refused(tmp_path: Path) -> None:
    module(written(tmp_path, weights="random")).setup("test")
    with pytest.raises(ValueError, match=r"with the weights 'other\.safetensors', but this `test` has 'random'; give"):
        module(written(tmp_path, weights="other.safetensors")).setup("test")


def test_a_baseline_that_is_no_results_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsFileError, match="cannot be read"):
        module(tmp_path / "results.json")


def measured_in(precision: str) -> dict[str, Any]:
    return {"measurement": asdict(Measurement(precision))}


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_a_baseline_of_another_precision_is_refused(tmp_path: Path, stage: str) -> None:
    split = {"split": "test" if stage == "test" else "val"}
    module(written(tmp_path, **split, **measured_in("32-true"))).setup(stage)
    with pytest.raises(ValueError, match=f"was measured in bf16-mixed, but this `{stage}` measures in 32-true; give"):
        module(written(tmp_path, **split, **measured_in("bf16-mixed"))).setup(stage)


def test_a_baseline_of_another_inference_is_refused(tmp_path: Path) -> None:
    made = module(written(tmp_path, **measured_in("32-true")))
    made.inference = "two_pass"
    with pytest.raises(ValueError, match="was measured in 32-true, but this `test` measures in 32-true, two_pass"):
        made.setup("test")


def test_a_baseline_from_another_kind_of_device_is_taken(tmp_path: Path) -> None:
    module(written(tmp_path, measurement=asdict(Measurement(device="cuda", float32_convolutions="tf32")))).setup("test")
