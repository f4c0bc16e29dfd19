"""What a grounder costs at full size, stage by stage, and how much of it fits a card: `make bench-model`.

Each case runs in a separate process, whose peak of memory is the case's. Weights are random, which costs the same.
The budget at the end is the bytes of all tensors alive at once, counted on tensors without values for clips of 8 and of
16 frames, and extrapolated to longer ones.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases import (
    Case,
    batch_of,
    build,
    machine_of,
    precision_of,
    with_scope,
    with_stand_in_text,
    without_backbones,
)
from benchmarks.memory import COUNTED, KINDS, live_bytes, need
from benchmarks.stages import VISUAL, parameters, stage_timings, stage_work
from benchmarks.timing import timed
from benchmarks.tuning import Row, infer, lora_beside, training_step, tuned
from stvg_nst.models.base import Grounder
from stvg_nst.tuning import ZeroShot

CARDS = 16, 24, 48, 80
RESERVE = 1.0, 0.9  # GiB for the driver's context and libraries, and the share of the rest that an allocator can use


@dataclass
class Cost:
    """What it took: seconds by stage and by step, billions of operations by stage, GiB."""

    seconds: dict[str, float] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    memory: float = 0.0
    parameters: dict[str, int] = field(default_factory=dict)
    trainable: dict[str, int] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("experiments/model/cgstvg.yaml"))
    parser.add_argument("--tuner", type=Path, default=Path("experiments/tuner/nst.yaml"), help="an overlay of NST")
    parser.add_argument("--scope", type=Path, help="an overlay with other targets, of experiments/scope")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--clips", type=int, nargs="+", default=[1, 2], help="sizes of a batch")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=[224, 313], metavar=("H", "W"))
    parser.add_argument("--budget-size", type=int, nargs=2, default=[420, 588], metavar=("H", "W"))
    parser.add_argument("--budget-frames", type=int, nargs="+", default=[32, 64], help="lengths to count the memory of")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=("cost", "budget"), nargs="+", default=["cost", "budget"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = options.frames, *options.size
        tuner = with_scope(options.tuner, options.scope, Path(folder))
        common = with_stand_in_text(options.model, Path(folder)), tuner, options.device
        cases = [
            Case(*common, precision, clips, *size, options.repeats, options.threads)
            for precision in options.precision
            for clips in options.clips
        ]
        kind = "processor" if options.device == "cpu" else "wall"
        print(
            f"{machine_of(options.device)}, {kind} seconds, median of {options.repeats}, {options.threads} thread(s)\n"
        )
        if "cost" in options.only:
            print_tuning(print_costs_as_measured(cases))
        if "budget" in options.only:
            height, width = options.budget_size
            long = [replace(case, clips=1, height=height, width=width) for case in cases[:: len(options.clips)]]
            counted = [(case, apart(live_bytes, replace(case, device="cpu"))) for case in long]
            print_budget(counted, options.budget_frames)


def apart(work: Callable[[Case], Any], case: Case) -> Any:
    """Runs in a fresh process, so that a peak of memory is nobody else's; one that dies is an error here."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, case).result()


# --- what is measured ----------------------------------------------------------------------------------------------


def measure(case: Case) -> Cost:
    grounder, nst = build(case)
    grounder.to(case.device)
    frames, mask = batch_of(case)
    cost = Cost(parameters=parameters(grounder))
    with precision_of(case):
        timings = stage_timings(case, grounder, frames, mask)
        cost.memory = peak_memory(case)
        cost.operations = operations(grounder, frames, mask, case)
        with torch.no_grad():
            features = grounder.encode(frames, mask, [frames.shape[-2:]] * len(frames))
    grounding = without_backbones(grounder)
    rows = {
        name: tuned(grounding, name, tuner)
        for name, tuner in {"frozen": ZeroShot(), "NST": nst, "LoRA": lora_beside(nst)}.items()
    }
    for row in rows.values():
        row.grounder.to(case.device)
    rivals = {name: row for name, row in rows.items() if name != "frozen"}
    cost.trainable = {name: trainable(row.grounder) for name, row in rivals.items()}
    precision = partial(precision_of, case)

    def inference(row: Row) -> None:
        with precision():
            infer(row, features, mask)

    qualities = torch.arange(case.clips, device=case.device) % 2
    works: dict[str, Callable[[], None]] = {f"inference {name}": partial(inference, row) for name, row in rows.items()}
    works |= {
        f"step {name}": training_step(row, features, mask, qualities, precision=precision)
        for name, row in rivals.items()
    }
    timings |= timed(works, case.repeats, case.device)
    cost.seconds = {name: timing.median for name, timing in timings.items()}
    return cost


def operations(grounder: Grounder, frames: Tensor, mask: Tensor, case: Case) -> dict[str, float]:
    """Billions of additions and multiplications by stage, counted on the first frames of one clip."""
    length = min(case.frames, COUNTED[0])
    work = stage_work(grounder, frames[:1, :length], mask[:1, :length])
    shares = {name: 1.0 if name == "text" else case.frames / length for name in work}
    return {name: case.clips * shares[name] * part.flops / 1e9 for name, part in work.items()}


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def peak_memory(case: Case) -> float:
    """GiB: of the process on a CPU, of its tensors on a card."""
    if case.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- the tables ------------------------------------------------------------------------------------------------------


def print_costs_as_measured(cases: Sequence[Case]) -> list[tuple[Case, Cost]]:
    """Each row appears as soon as its case is measured."""
    costs: list[tuple[Case, Cost]] = []
    names: list[str] = []
    for case in cases:
        cost = apart(measure, case)
        if not costs:
            names = list(cost.parameters)
            print_head("clips x T x H x W", *(f"{name} s" for name in names), "all s", "peak GiB")
        costs.append((case, cost))
        seconds = [cost.seconds[name] for name in names]
        print_row(case.title, *(f"{value:.3g}" for value in (*seconds, sum(seconds), cost.memory)))
    case, cost = costs[0]
    counts = [f"{cost.operations[name] / case.clips:.0f}" for name in names]
    print_row("10^9 operations a clip", *counts, f"{sum(cost.operations.values()) / case.clips:.0f}", "")
    rates = [f"{cost.operations[name] / cost.seconds[name]:.0f}" for name in names]
    print_row(f"10^9 operations / s, {case.precision}", *rates, "", "")
    print_row("parameters", *(f"{cost.parameters[name]:,}" for name in names), f"{sum(cost.parameters.values()):,}", "")
    print(f"\nA product of matrices reaches {gemm(case):.0f} x 10^9 operations / s here in fp32.\n")
    return costs


def print_tuning(costs: Sequence[tuple[Case, Cost]]) -> None:
    """The grounding model by itself, and what NST adds to the whole: its visual encoders run once in a step, too."""
    print_head("grounding model", "frozen s", "NST s", "LoRA s", "NST step s", "LoRA step s", "NST adds", "to a step")
    for case, cost in costs:
        columns = ("inference frozen", "inference NST", "inference LoRA", "step NST", "step LoRA")
        frozen, nst, _, nst_step, lora_step = values = [cost.seconds[name] for name in columns]
        encoders = sum(cost.seconds[name] for name in VISUAL if name in cost.seconds)
        added = (
            f"{(nst - frozen) / (encoders + frozen):+.1%}",
            f"{(nst_step - lora_step) / (encoders + lora_step):+.1%}",
        )
        print_row(case.title, *(f"{value:.3g}" for value in values), *added)
    counts = ", ".join(f"{name} {count:,}" for name, count in costs[0][1].trainable.items())
    print(f"\nNST adds: of the whole inference, and of a whole step beside LoRA's. Trainable parameters: {counts}.\n")


def print_budget(counted: Sequence[tuple[Case, dict[tuple[str, int], int]]], lengths: Sequence[int]) -> None:
    kinds = [(kind, length) for kind in KINDS for length in lengths]
    case = counted[0][0]
    print(f"Computed, not measured: frames of {case.height} x {case.width}.\n")
    print_head("", *(f"{kind}, T = {length}" for kind, length in kinds))
    needs = {case.precision: [need(live, *kind) for kind in kinds] for case, live in counted}
    for precision, parts in needs.items():
        print_row(f"GiB, {precision}", *(f"{fixed:.1f} + {clip:.1f} a clip" for fixed, clip in parts))
    for card in CARDS:
        room = (card - RESERVE[0]) * RESERVE[1]
        for precision, parts in needs.items():
            fit = [max(0, int((room - fixed) / clip)) for fixed, clip in parts]
            print_row(f"clips on {card} GB, {precision}", *map(str, fit))
    print()


def gemm(case: Case) -> float:
    """Billions of operations a second of a large product of matrices: what this machine can do at best."""
    a, b = torch.randn(2, 2048, 2048, device=case.device)
    return 2 * 2048**3 / 1e9 / timed({"product": lambda: a @ b}, case.repeats, case.device)["product"].median


def print_row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def print_head(*cells: str) -> None:
    print_row(*cells)
    print("|---|" + "---:|" * (len(cells) - 1))


if __name__ == "__main__":
    main()
