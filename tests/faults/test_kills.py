"""Killed at any moment, the same work goes on the next time, and leaves what it would have left undisturbed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from datamodules import MiniSTVG
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.training.checkpoints import find_checkpoint, write_whole_checkpoints
from stvg_nst.types import BackboneFeatures, Batch
from tests.counting import Counting, Numbers, make_trainer
from tests.faults.killing import content, is_killed, run_for, seconds_of

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS, FEW = 50, 3
TUNED = "nst_encoder"  # the run of `make train`
OVERLAYS = ("base", "data/mini_cached", "model/mini", "model/mini_weights")
SHORT = (
    *("--data.init_args.training_clips=8", "--data.init_args.val_clips=4", "--data.init_args.test_clips=4"),
    *("--data.init_args.batch_size=4", "--trainer.max_epochs=2"),
)


def render(root: Path) -> None:
    MiniSTVG(root, training_clips=2, val_clips=1, test_clips=1, num_frames=4).prepare_data()


def cache(root: Path, folder: Path) -> None:
    data = MiniSTVG(
        root, training_clips=2, val_clips=1, test_clips=1, num_frames=4, variants=1, features=folder, num_workers=0
    )
    data.build_cache("train", encode, "backbones")


def encode(batch: Batch) -> BackboneFeatures:
    assert batch.frames is not None
    cells = torch.nn.functional.adaptive_avg_pool2d(batch.frames.flatten(0, 1), 4).unflatten(0, batch.frames.shape[:2])
    return BackboneFeatures(cells, cells, torch.ones(len(batch), 4, 4, dtype=torch.bool))


def fit(folder: Path) -> None:
    """Three epochs, of which the state is kept after each."""
    trainer = make_trainer(folder)
    write_whole_checkpoints(trainer)
    torch.manual_seed(0)
    module = Counting()
    last = find_checkpoint("last", folder, [folder / "checkpoints"], "fit")
    trainer.fit(module, datamodule=Numbers(), ckpt_path=last)
    found = [float(value) for value in torch.nn.utils.parameters_to_vector(module.parameters())]
    write_whole(folder / "done.json", json.dumps(found))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    render(root)
    return root


@pytest.mark.parametrize(
    "stage", ["fit", *(pytest.param(stage, marks=pytest.mark.slow) for stage in ("render", "cache"))]
)
def test_a_stage_that_is_killed_leaves_what_an_undisturbed_one_does(rendered: Path, tmp_path: Path, stage: str) -> None:
    """The short form: one stage at a time, a few kills each."""
    work = {"render": render, "cache": partial(cache, rendered), "fit": fit}[stage]
    compared = {"render": "", "cache": "train/", "fit": "done.json"}[stage]
    undisturbed, moments = tmp_path / "undisturbed", Random(stage)
    seconds = seconds_of(partial(work, undisturbed))
    kills, trial = 0, 0
    while kills < FEW or trial == 0:
        folder = tmp_path / str(trial)
        if is_killed(partial(work, folder), seconds=moments.uniform(0, seconds) if kills < FEW else None):
            kills += 1
            continue
        trial, seconds = trial + 1, 0.7 * seconds  # the machine was slower when it was measured
        expected, found = (
            {name: file for name, file in content(place).items() if name.startswith(compared)}
            for place in (undisturbed, folder)
        )
        assert found == expected and expected


def make(folder: Path, *, seconds: float | None = None) -> str | None:
    """A short `make train` in a folder of its own."""
    data, features = folder / "data", folder / "data" / "features"
    places = (f"--data.init_args.root={data}", f"--data.init_args.features={features}")
    mini = " ".join([*(f"--config=experiments/{name}.yaml" for name in OVERLAYS), *SHORT, *places])
    variables = {"DATA": data, "FEATURES": features, "RUNS": folder / "runs", "MINI": mini}
    variables["STVG"] = f"{sys.executable} -m stvg_nst"
    installed = "--old-file=.venv/.installed"  # with this Python, whatever it was installed for
    command = [
        "make",
        "-C",
        str(REPOSITORY),
        installed,
        "train",
        *(f"{name}={value}" for name, value in variables.items()),
    ]
    return run_for(command, os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}, seconds=seconds)


def numbers(folder: Path) -> dict[str, Any]:
    runs = {name: json.loads((folder / "runs" / name / "results.json").read_text()) for name in ("zero-shot", TUNED)}
    return {name: (run["metrics"], run["samples"]) for name, run in runs.items()}


@pytest.mark.slow
def test_a_whole_training_that_is_killed_ends_with_the_numbers_of_an_undisturbed_one(tmp_path: Path) -> None:
    moments, whole, folder = Random("make train"), tmp_path / "whole", tmp_path / "killed"
    seconds = seconds_of(lambda: make(whole))
    kills, finished = 0, 0
    while kills < KILLS or not finished:
        last = kills >= KILLS
        if make(folder, seconds=None if last else moments.uniform(0, 0.6 * seconds)) is None:
            kills += 1
            continue
        finished += 1
        assert numbers(folder) == numbers(whole)
        adapters = [load_file(place / "runs" / TUNED / "adapter.safetensors") for place in (whole, folder)]
        assert all(torch.equal(value, adapters[1][name]) for name, value in adapters[0].items())
        shutil.rmtree(folder)
    print(f"{kills} kills, {finished} trainings")
