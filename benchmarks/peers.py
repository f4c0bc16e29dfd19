"""What every method of a study costs: `make bench-peers`.

Times the grounding model alone, on random backbone features, so that no decoding hides the difference, and tracks the
memory of the tensors that a training step and an inference hold at most. Methods take turns, on one thread, and the
file gives medians of CPU seconds and ratios within one run: absolute times on a shared machine mean little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cases import QUERY
from benchmarks.timing import timed
from benchmarks.tuning import Row, encode, infer, make_frames, training_step
from stvg_nst.budget import frozen_grounder, injected_points
from stvg_nst.study import read_studies
from stvg_nst.tuning import ZeroShot

FROZEN, PEER = "Zero-shot", "LoRA"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path("experiments/compare/peers.yaml"))
    parser.add_argument("--output", type=Path, required=True, help="the .json to write")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=8, help="of a batch; half of them count as low quality")
    parser.add_argument("--size", type=int, default=128, help="of a frame, in pixels")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as in benchmarks/tuning.py
    torch.manual_seed(0)
    (study, *_) = read_studies(options.study)
    grounder = frozen_grounder(study)
    frames, mask = make_frames(options)
    features = encode(grounder, frames, mask)
    rows = [Row(FROZEN, grounder, ZeroShot(), trains=False)]
    costs: dict[str, dict[str, Any]] = {FROZEN: {"trainable": 0, "share": 0.0, "layers": 0}}
    for name, tuned, tuner, report in injected_points(study):
        if tuner.clean_clips:
            tuner.calibrate(tuned, [mask], lambda mask, model=tuned: model.ground(features, mask, [QUERY] * len(mask)))
        rows.append(Row(name, tuned, tuner))
        share = 100 * report.trainable / report.total
        costs[name] = {"trainable": report.trainable, "share": share, "layers": len(report.layers)}
    labels = torch.arange(options.clips) % 2
    works: dict[str, Callable[[Row], Callable[[], None]]] = {
        "inference": lambda row: partial(infer, row, features, mask),
        "step": lambda row: training_step(row, features, mask, labels),
    }
    for kind, work_of in works.items():
        working = {row.name: row for row in rows if row.trains or kind == "inference"}
        timings = timed({name: work_of(row) for name, row in working.items()}, options.repeats)
        medians = {name: timing.median for name, timing in timings.items()}
        for name, seconds in medians.items():
            rival = FROZEN if kind == "inference" else f"{name.rpartition(' / ')[0]} / {PEER}"
            costs[name] |= {
                f"{kind}_ms": 1e3 * seconds,
                f"{kind}_ratio": seconds / medians[rival] if rival in medians else None,
                # Of a first run: the optimiser's state has to be made, and so is counted.
                f"{kind}_mib": peak_memory(working[name], work_of(working[name])) / 2**20,
            }
    conditions = (
        f"{options.clips} clips of {options.frames} frames of cached features, 1 thread of {os.cpu_count()} "
        f"{platform.machine()} cores, medians of {options.repeats} in turns; memory is what tensors "
        "hold at most, the model's included"
    )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"conditions": conditions, "rows": costs}, indent=1) + "\n")
    print(f"written: {options.output}")


class LiveTensors(TorchDispatchMode):
    """Follows the bytes of all storages that operations make, as long as they live, on any device."""

    def __init__(self) -> None:
        super().__init__()
        self._known: set[int] = set()
        self._bytes = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._follow(value.untyped_storage())
        return result

    def ignore(self, tensors: Iterable[Tensor]) -> int:
        """The bytes of tensors that were there before, which a view of them will not count again."""
        storages = {id(storage): storage for storage in (tensor.untyped_storage() for tensor in tensors)}
        self._known |= storages.keys()
        return sum(storage.nbytes() for storage in storages.values())

    def _follow(self, storage: torch.UntypedStorage) -> None:
        if id(storage) not in self._known:
            self._known.add(id(storage))
            self._bytes += storage.nbytes()
            self.peak = max(self.peak, self._bytes)
            weakref.finalize(storage, self._end, id(storage), storage.nbytes())

    def _end(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._bytes -= size


def peak_memory(row: Row, run: Callable[[], None]) -> int:
    """Bytes of the model and of all that ``run`` holds beside it at most: activations, gradients, optimiser."""
    live = LiveTensors()
    model = live.ignore([*row.grounder.parameters(), *row.grounder.buffers()])
    with live:
        run()
    return model + live.peak


if __name__ == "__main__":
    main()
