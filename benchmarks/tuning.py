"""What tuning costs: `make bench-tuning`.

Times the grounding model alone, on random backbone features, so that no decoding hides the difference; the column
"/ whole" adds what the frozen visual encoders take to both sides of the ratio. Every row tunes the layers of the NST
overlay, or of a scope over it. Rows with the clean twin have its targets from memory, as in all epochs but the first,
and are compared with a LoRA that has them too. Times are CPU seconds of this process, rows take turns, and the table
gives medians and ratios within one run: absolute times on a shared machine mean little.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from stvg_nst.models.base import Grounder
from stvg_nst.tuning import LoRA, NullSpaceTuning, Tuner, ZeroShot
from stvg_nst.tuning.selection import select_by_name
from stvg_nst.twin import CleanTwin, twin_distance
from stvg_nst.types import BackboneFeatures, GroundingOutput

QUERY = "what does the large red square in the video jump over ?"


@dataclass
class Row:
    """A tuned model, ready to run."""

    name: str
    grounder: Grounder
    tuner: Tuner
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    trains: bool = True
    twin: CleanTwin | None = None
    peer: str = "LoRA"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("experiments/model/mini.yaml"))
    parser.add_argument("--tuner", type=Path, default=Path("experiments/tuner/nst.yaml"), help="an overlay of NST")
    parser.add_argument("--scope", type=Path, help="an overlay with other targets, of experiments/scope")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=8, help="of a batch; half of them count as low quality")
    parser.add_argument("--size", type=int, default=128, help="of a frame, in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--profile", action="store_true", help="show what training and inference spend it on, instead")
    options = parser.parse_args()
    # One thread: the CPU seconds of several would count those that wait for each other.
    torch.set_num_threads(1)
    torch.manual_seed(0)
    grounder, tuner = build(options.model, options.tuner)
    if options.scope is not None:
        tuner = replace(tuner, **yaml.safe_load(options.scope.read_text())["model"]["tuner"]["init_args"])
    frames, mask = make_frames(options)
    features = encode(grounder, frames, mask)
    qualities = torch.arange(options.clips) % 2
    rows = make_rows(grounder, tuner)
    peers = {row.name: row.peer for row in rows}
    inferences = {row.name: partial(infer, row, features, mask) for row in rows}
    steps = {row.name: training_step(row, features, mask, qualities) for row in rows if row.trains}
    print(f"{options.clips} clips of {options.frames} frames, 1 thread, median of {options.repeats}")
    if options.profile:
        show_profiles(inferences, steps, peers)
        return
    encoding = measure({"encoders": partial(encode, grounder, frames, mask)}, repeats=3)["encoders"]
    inference, training = measure(inferences, options.repeats), measure(steps, options.repeats)
    print(f"{'':34} {'inference':>12} {'/ frozen':>9} {'/ whole':>8} {'training step':>15} {'/ LoRA':>7}")
    for name, seconds in inference.items():
        ratios = (seconds / inference["frozen"], (encoding + seconds) / (encoding + inference["frozen"]))
        print(f"{name:34} {1e3 * seconds:9.1f} ms {ratios[0]:9.3f} {ratios[1]:8.3f}", end="")
        if name in training:
            print(f" {1e3 * training[name]:12.1f} ms {training[name] / training[peers[name]]:7.3f}", end="")
        print()
    print(f"{'the frozen visual encoders':34} {1e3 * encoding:9.1f} ms")


def build(model: Path, tuner: Path) -> tuple[Grounder, NullSpaceTuning]:
    """The grounder and the tuner that two overlays describe; its weights are random, which costs the same."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    parser.add_subclass_arguments(Tuner, "tuner")
    parts: dict[str, Any] = {
        "grounder": yaml.safe_load(model.read_text())["model"]["grounder"],
        "tuner": yaml.safe_load(tuner.read_text())["model"]["tuner"],
    }
    built = parser.instantiate(parser.parse_object(parts))
    if not isinstance(built.tuner, NullSpaceTuning):
        raise SystemExit(f"expected an overlay of NullSpaceTuning in {tuner}, got {type(built.tuner).__name__}")
    return built.grounder, replace(built.tuner, spaces=None)  # random weights are not worth keeping


def make_frames(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    frames = torch.randn(options.clips, options.frames, 3, options.size, options.size)
    return frames, torch.ones(options.clips, options.frames, dtype=torch.bool)


@torch.no_grad()
def encode(grounder: Grounder, frames: Tensor, mask: Tensor) -> BackboneFeatures:
    return grounder.eval().encode(frames, mask)


def make_rows(grounder: Grounder, tuner: NullSpaceTuning) -> list[Row]:
    def row(name: str, tuner: Tuner, **options: Any) -> Row:
        model = copy.deepcopy(grounder)
        tuner.inject(model)
        return Row(name, model, tuner, **options)

    def gated(name: str, value: float, *, folded: bool) -> Row:
        hard = row(name, replace(tuner, gate="hard", router="shared"), trains=False)
        assert isinstance(hard.tuner, NullSpaceTuning)
        if folded:
            hard.tuner.fold(hard.grounder)
        nst = hard.tuner
        return replace(hard, around=lambda: nst.override_gate(value))

    def twinned(name: str, tuner: Tuner) -> Row:
        model = copy.deepcopy(grounder)
        twin = CleanTwin(model)
        tuner.inject(model)
        twin.keep_apart(model)
        twin.remember()
        return Row(name, model, tuner, twin=twin, peer="LoRA, clean twin")

    lora = LoRA(targets=tuner.targets, rank=tuner.rank, alpha=tuner.rank)
    rows = [
        row("frozen", ZeroShot(), trains=False),
        row("LoRA", replace(lora)),
        row("NST, literal W(x + dx)", replace(tuner, forward_mode="literal")),
        row("NST", replace(tuner)),
        row("NST, retrieval with four heads", replace(tuner, heads=4)),
        row("NST, folded", replace(tuner), trains=False),
        gated("NST, folded, hard, all clips LQ", 1.0, folded=True),
        gated("NST, folded, hard, all clips HQ", 0.0, folded=True),
    ]
    if reaches_fusion(grounder, tuner):
        rows += [twinned("LoRA, clean twin", lora), twinned("NST, clean twin", replace(tuner))]
    folded = next(row for row in rows if row.name == "NST, folded")
    assert isinstance(folded.tuner, NullSpaceTuning)
    folded.tuner.fold(folded.grounder)
    return rows


def reaches_fusion(grounder: Grounder, tuner: NullSpaceTuning) -> bool:
    """Whether anything is tuned ahead of the decoders, where the clean twin has its tokens."""
    tuned = select_by_name(grounder, tuner.targets).values()
    return any(layer in tuned for part in grounder.fusion() for layer in part.modules())


def infer(row: Row, features: BackboneFeatures, mask: Tensor) -> None:
    row.tuner.set_training(row.grounder, False)
    with torch.inference_mode(), row.around():
        row.grounder.ground(features, mask, [QUERY] * len(mask))


def training_step(row: Row, features: BackboneFeatures, mask: Tensor, qualities: Tensor) -> Callable[[], None]:
    """Forward, backward and the step, on a stand-in for the grounding loss that reaches every output."""
    optimizer = torch.optim.AdamW(row.tuner.trainable_parameters(row.grounder), lr=0.0)

    def step() -> None:
        row.tuner.set_training(row.grounder, True)
        with row.tuner.conditioned_on(qualities):
            output = row.grounder.ground(features, mask, [QUERY] * len(mask))
        loss = total(output) + sum(row.tuner.auxiliary_losses(qualities).values(), torch.zeros(()))
        if row.twin is not None:
            assert output.fused is not None
            target = row.twin.targets(features, mask, [QUERY] * len(mask))
            loss = loss + twin_distance(output.fused, target, mask).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def total(output: GroundingOutput) -> Tensor:
    return sum(
        (part.square().mean() for part in output.answers.values()),
        torch.zeros(()),
    )


def measure(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds by name; the first round warms up, and the rows take turns so that a busy machine hits all."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return {name: median(values) for name, values in seconds.items()}


def show_profiles(
    inferences: Mapping[str, Callable[[], object]],
    steps: Mapping[str, Callable[[], object]],
    peers: Mapping[str, str],
) -> None:
    """What each operator takes beyond the same operator of the model that the ratio is with."""
    for kind, works in (("inference", inferences), ("training step", steps)):
        for name, work in works.items():
            reference = "frozen" if kind == "inference" else peers[name]
            base = operator_times(works[reference])
            times = operator_times(work)
            surplus = {operator: times[operator] - base.get(operator, 0.0) for operator in times}
            worst = sorted(surplus, key=lambda operator: surplus[operator], reverse=True)[:6]
            totals = f"{sum(times.values()):.1f} ms, {reference} {sum(base.values()):.1f} ms"
            print(f"\n{kind}, {name}: {totals}; the surplus by operator")
            for operator in worst:
                print(f"  {surplus[operator]:8.1f} ms  {operator}")


def operator_times(work: Callable[[], object]) -> dict[str, float]:
    """Milliseconds by operator, its callees left out: medians of five runs."""
    runs: list[dict[str, float]] = []
    work()
    for _ in range(5):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        runs.append({event.key: event.self_cpu_time_total / 1e3 for event in profiler.key_averages()})
    return {operator: median(run.get(operator, 0.0) for run in runs) for operator in runs[0]}


if __name__ == "__main__":
    main()
