"""``results.json``: the numbers of a test, with everything one needs to believe or to repeat them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning
import torch

import stvg_nst
from callbacks.run import (
    grounding_data,
    grounding_module,
    leaves_files,
    refuse_finished,
    run_folder,
)
from stvg_nst.types import Batch
from stvg_nst.whole_files import write_whole

SCHEMA = 1


class ResultsWriter(lightning.Callback):
    """Writes ``results.json`` into the run's folder when a test is complete.

    Args:
        overwrite: replace the results of an earlier test.
    """

    NAME = "results.json"

    def __init__(self, *, overwrite: bool = False) -> None:
        self.overwrite = overwrite
        self._metrics: dict[str, float] = {}
        self._samples: list[dict[str, Any]] = []
        self._evaluated = 0
        self._skipped = 0
        self._start = 0.0

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Refuse, before any work is done, to test into a folder that has results.

        Raises:
            FileExistsError: the folder holds results, and ``overwrite`` is false.
        """
        if stage == "test" and not self.overwrite:
            refuse_finished(trainer, run_folder(trainer) / self.NAME, callback=type(self).__name__)

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._evaluated = 0
        self._start = time.perf_counter()

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated += len(batch)

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # On every rank, for each of these lines talks to the others.
        metrics = grounding_module(pl_module).metrics
        self._metrics = {name: float(value) for name, value in metrics.compute().items()}
        self._samples = metrics.samples()
        assert trainer.test_dataloaders is not None
        left_out = torch.tensor(len(trainer.test_dataloaders.sampler) - self._evaluated, device=pl_module.device)
        self._skipped = int(trainer.strategy.reduce(left_out, reduce_op="sum"))

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not leaves_files(trainer):
            return
        module, data = grounding_module(pl_module), grounding_data(trainer)
        provenance = data.provenance()
        conditions = data.conditions("test")
        commit, dirty = git_state(Path(stvg_nst.__file__))
        results = {
            "schema": SCHEMA,
            "method": type(module.tuner).__name__,
            "dataset": conditions.dataset,
            "split": conditions.split,
            "evaluation_conditions": conditions.shown,
            "metrics": self._metrics,
            "seed": data.seed,
            "benchmark_seed": conditions.benchmark_seed,
            "data": provenance,
            "degradations": data.degradations(),
            "trainable_parameters": module.injection.trainable,
            "total_parameters": module.injection.total,
            "weights": module.weights,
            "injection": [asdict(layer) for layer in module.injection.layers],
            "versions": {**software_versions(), "degradations": provenance["degradations"]},
            "git_commit": commit,
            "git_dirty": dirty,
            "config_hash": config_hash(run_folder(trainer)),
            "machine": machine(pl_module.device, trainer.world_size),
            "wall_seconds": time.perf_counter() - self._start,
            "skipped": self._skipped + data.skipped(conditions.split),
            "samples": self._samples,
        }
        text = json.dumps(results, indent=1, allow_nan=False) + "\n"
        write_whole(run_folder(trainer) / self.NAME, text.encode())


def software_versions() -> dict[str, str]:
    """The interpreter, the project, and the libraries that can change a number."""
    libraries = (
        "torch",
        "torchvision",
        "lightning",
        "transformers",
        "peft",
        "av",
        "albumentations",
        "numpy",
        "opencv-python-headless",
    )
    try:
        project = version("stvg_nst")
    except PackageNotFoundError:
        project = "not installed"  # run from its folder: the commit says more than a version could
    return {
        "python": platform.python_version(),
        "stvg_nst": project,
        **{library: version(library) for library in libraries},
    }


def git_state(file: Path) -> tuple[str | None, bool | None]:
    """The commit that a source file belongs to, and whether tracked files of its repository differ from it.

    Returns:
        ``(None, None)`` for a file that no repository tracks, such as one in a virtual environment inside of one.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    try:
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "HEAD").strip()
        return commit, bool(git("status", "--porcelain", "--untracked-files=no"))
    except (FileNotFoundError, subprocess.CalledProcessError):  # no git on this machine, no repository, or no commit
        return None, None


def config_hash(folder: Path) -> str | None:
    """SHA-256 of the configurations of the fit and of the test, ``None`` where the run was not configured by files."""
    files = [folder / name for name in ("config.yaml", "test.yaml") if (folder / name).exists()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest() if files else None


def machine(device: torch.device, processes: int) -> dict[str, str | int | None]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"accelerator": device.type, "device": name, "cores": os.cpu_count(), "processes": processes}
