"""Compares the cost model of `stvg_nst/epoch_time.py` with a measured epoch: `make bench-epoch`.

Tunes the miniature for one epoch on cached features, in one process and in two. The model's terms are measured
separately: a step and an inference on random features, an exchange of gradients over Gloo. The first process of a run
notes when training and validation begin and end. Other work on the machine does not stretch its processor seconds, but
these leave out waiting. Seconds of the clock include waiting, and mean little on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import yaml
from lightning import Callback, LightningModule, Trainer

from benchmarks.cases import build_parts
from benchmarks.tuning import encode, infer, make_frames, training_step, tuned
from stvg_nst.epoch_time import Costs, EpochTime, Term, epoch_time

MODEL, TUNER = Path("experiments/model/mini.yaml"), Path("experiments/tuner/nst.yaml")
PROCESSES = 1, 2
EFFECTIVE_BATCH, BATCH = 16, 8
CLOCKS: dict[str, Callable[[], float]] = {"processor": time.process_time, "clock": time.perf_counter}


class EpochClock(Callback):
    """Writes down how long the first process trains and validates in the last epoch, and on how many clips.

    Args:
        file: the .json to write.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._marks: dict[str, dict[str, float]] = {}
        self._validated = 0

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._mark("begin")

    def on_validation_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._mark("trained")

    def on_validation_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._validated += len(batch)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._mark("validated")

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            found = {
                "steps": trainer.global_step,
                "validated_clips": self._validated * trainer.world_size,
                "training": self._between("begin", "trained"),
                "validation": self._between("trained", "validated"),
            }
            self.file.write_text(json.dumps(found))

    def _mark(self, name: str) -> None:
        self._marks[name] = {clock: read() for clock, read in CLOCKS.items()}

    def _between(self, start: str, stop: str) -> dict[str, float]:
        return {clock: self._marks[stop][clock] - self._marks[start][clock] for clock in CLOCKS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="where `make train` caches features")
    parser.add_argument("--clips", type=int, default=200, help="to tune on, each with two sentences")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    terms = measure_terms(options.repeats)
    print("measured apart from an epoch, in seconds:")
    for name, values in terms.items():
        print(f"  {name:10} " + ", ".join(f"{value:.4g} ({clock})" for clock, value in values.items()))
    with tempfile.TemporaryDirectory() as folder:
        found = {n: run_epoch(n, options.data, options.clips, Path(folder) / f"{n}") for n in PROCESSES}
    print(f"\n{'':34} {'predicted':>10} {'measured':>10} {'ratio':>6}")
    for processes, measured in found.items():
        for clock in CLOCKS:
            predicted = epoch_time(costs_of(terms, clock, measured), processes)
            for name, seconds in parts_of(predicted).items():
                own = measured[name][clock]
                title = f"{processes} process(es), {name}, {clock}"
                print(f"{title:34} {seconds:8.1f} s {own:8.1f} s {seconds / own:6.2f}")


def measure_terms(repeats: int) -> dict[str, dict[str, float]]:
    """Seconds a clip of a step and of an inference, and seconds of an exchange of the gradients of two processes."""
    grounder, nst = build_parts(MODEL, TUNER)
    frames, mask = make_frames(SimpleNamespace(clips=BATCH, frames=16, size=128))
    features = encode(grounder, frames, mask)
    row = tuned(grounder, "NST", nst)
    works = {
        "step": training_step(row, features, mask, torch.arange(BATCH) % 2),
        "inference": partial(infer, row, features, mask),
    }
    timings = {name: timed_by_both(work, repeats) for name, work in works.items()}
    terms = {name: {clock: value / BATCH for clock, value in timing.items()} for name, timing in timings.items()}
    size = sum(parameter.numel() for parameter in nst.trainable_parameters(row.grounder))
    return terms | {"exchange": {"processor": 0.0, "clock": exchange_seconds(size, repeats)}}


def timed_by_both(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """Means, the first run apart: an epoch's sum is made of them."""
    work()
    starts = {clock: read() for clock, read in CLOCKS.items()}
    for _ in range(repeats):
        work()
    return {clock: (read() - starts[clock]) / repeats for clock, read in CLOCKS.items()}


def exchange_seconds(numbers: int, repeats: int) -> float:
    """Of the clock, for two processes to add up as many numbers in single precision."""
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: Any = context.SimpleQueue()
    processes = [context.Process(target=_exchange, args=(rank, port, numbers, repeats, results)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process that exchanges gradients ended with the exit code {process.exitcode}")
    return float(results.get())


def _exchange(rank: int, port: int, numbers: int, repeats: int, results: Any) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    gradients = torch.ones(numbers)
    dist.all_reduce(gradients)
    start = time.perf_counter()
    for _ in range(repeats):
        dist.all_reduce(gradients)
    if rank == 0:
        results.put((time.perf_counter() - start) / repeats)
    dist.barrier()
    dist.destroy_process_group()


def run_epoch(processes: int, data: Path, clips: int, folder: Path) -> dict[str, Any]:
    """One epoch of `fit`; what :class:`EpochClock` has written of it."""
    folder.mkdir()
    overlay = folder / "clock.yaml"
    clock = {"class_path": "benchmarks.epochs.EpochClock", "init_args": {"file": str(folder / "epoch.json")}}
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks+": [clock]}}))
    names = ["base", "data/mini_cached", "model/mini", "model/mini_weights", "tuner/nst"]
    overlays = [f"experiments/{name}.yaml" for name in [*names, *(["hardware/ddp"] if processes > 1 else [])]]
    command = [sys.executable, "-m", "stvg_nst", "fit"]
    command += [word for path in (*overlays, str(overlay)) for word in ("--config", path)]
    command += [f"--data.init_args.root={data}", f"--data.init_args.features={data / 'features/mini'}"]
    command += [f"--data.init_args.training_clips={clips}", "--data.init_args.num_workers=1"]
    command += [f"--data.init_args.effective_batch={EFFECTIVE_BATCH}", f"--data.init_args.batch_size={BATCH}"]
    command += ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", "--trainer.max_epochs=1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, f"--run={folder / 'run'}"], env=environment, check=True)
    return json.loads((folder / "epoch.json").read_text())


def costs_of(terms: Mapping[str, Mapping[str, float]], clock: str, measured: Mapping[str, Any]) -> Costs:
    """The model's costs: of the run itself nothing but its steps and the clips that it validates on."""

    def term(value: float) -> Term:
        return Term(value, "measured", "benchmarks/epochs.py")

    exchange = terms["exchange"][clock]
    return Costs(
        title="the miniature",
        training_clips=measured["steps"] * EFFECTIVE_BATCH,
        validation_clips=measured["validated_clips"],
        effective_batch=EFFECTIVE_BATCH,
        cards_a_machine=max(PROCESSES),
        step=term(terms["step"][clock]),
        optimizer=term(0.0),  # a part of the step that was measured
        inference=term(terms["inference"][clock]),
        feed=term(0.0),  # cached features: a loader's process is always ahead
        cores=term(1.0),
        trained_bytes=term(1.0),
        link=term(1 / exchange if exchange else float("inf")),
        network=term(1.0),
        latency=term(0.0),
    )


def parts_of(time: EpochTime) -> dict[str, float]:
    return {"training": time.computing + time.waiting + time.exchanging, "validation": time.validating}


if __name__ == "__main__":
    main()
