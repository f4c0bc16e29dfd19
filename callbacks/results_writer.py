"""``results.json``: the numbers of a test, with everything one needs to believe or to repeat them."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import torch

import stvg_nst
from callbacks.provenance import config_hash, machine, software_versions
from callbacks.record_writer import RecordWriter, num_own_samples
from callbacks.run import grounding_data, grounding_module, leaves_files, run_folder
from stvg_nst.machine.repository import git_state
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.measuring import measurement_of
from stvg_nst.results.results_file import RunResults, render_results
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import Batch


class ResultsWriter(RecordWriter):
    """Writes ``results.json`` into the run's folder as soon as the last batch of a test is scored.

    It comes after the files of the PredictionsWriter: a test that has left it has left everything. What made the
    numbers is looked up before the first batch.

    Args:
        overwrite: replace the results of an earlier test.
    """

    FILES = (RunFile.RESULTS,)
    TURN = 1
    BYTES_PER_SAMPLE = 1_000

    def __init__(self, *, overwrite: bool = False) -> None:
        super().__init__(overwrite=overwrite)
        self._origin: RunResults | None = None
        self._evaluated = 0
        self._start = 0.0

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._evaluated = 0
        self._start = time.perf_counter()
        self._origin = _origin(trainer, pl_module) if leaves_files(trainer) else None

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
        scores = {name: float(value) for name, value in metrics.compute().items()}
        samples = metrics.samples()
        left_out = torch.tensor(num_own_samples(trainer) - self._evaluated, device=pl_module.device)
        skipped = int(trainer.strategy.reduce(left_out, reduce_op="sum"))
        if self._origin is None:  # of a process that leaves no files
            return
        results = replace(
            self._origin,
            metrics=scores,
            wall_seconds=time.perf_counter() - self._start,
            skipped=skipped + grounding_data(trainer).skipped(self._origin.split),
            policies=grounding_data(trainer).policies(),
            samples=tuple(samples),
        )
        write_whole(results.path, render_results(results).encode())


def _origin(trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> RunResults:
    """All of the file but what the test itself finds.

    Raises:
        TypeError, ValueError: JSON cannot hold some value, from a data module of one's own for instance.
    """
    module, data = grounding_module(pl_module), grounding_data(trainer)
    provenance = data.provenance()
    conditions = data.conditions("test")
    commit, dirty = git_state(Path(stvg_nst.__file__))
    origin = RunResults(
        path=run_folder(trainer) / RunFile.RESULTS,
        method=type(module.tuner).__name__,
        dataset=conditions.dataset,
        split=conditions.split,
        evaluation_conditions=conditions.shown,
        measurement=measurement_of(trainer, pl_module, module.inference),
        metrics={},
        seed=data.seed,
        benchmark_seed=conditions.benchmark_seed,
        data=provenance,
        degradations=data.degradations(),
        trainable_parameters=module.injection.trainable,
        total_parameters=module.injection.total,
        weights=module.weights,
        injection=tuple(asdict(layer) for layer in module.injection.layers),
        versions={**software_versions(), "degradations": provenance["degradations"]},
        git_commit=commit,
        git_dirty=dirty,
        config_hash=config_hash(run_folder(trainer)),
        machine=machine(pl_module.device, trainer.world_size),
        wall_seconds=0.0,
        skipped=0,
        samples=(),
    )
    render_results(origin)  # what JSON cannot hold is an error before the first batch
    return origin
