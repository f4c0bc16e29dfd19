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
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import QUERY, build_parts
from benchmarks.timing import timed
from stvg_nst.models.base import Grounder
from stvg_nst.tuning import LoRA, NullSpaceTuning, Tuner, ZeroShot
from stvg_nst.tuning.selection import select_by_name
from stvg_nst.twin import CleanTwin, twin_distance
from stvg_nst.types import BackboneFeatures, GroundingOutput


@dataclass
class Row:
    """A tuned model, ready to run.

    Args:
        around: what an inference runs in.
        peer: the row that its steps are compared with.
    """

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
    grounder, tuner = build_parts(options.model, options.tuner)
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
    encoding = timed({"encoders": partial(encode, grounder, frames, mask)}, repeats=3)["encoders"].median
    inference, training = (
        {name: timing.median for name, timing in timed(works, options.repeats).items()} for works in (inferences, steps)
    )
    print(f"{'':34} {'inference':>12} {'/ frozen':>9} {'/ whole':>8} {'training step':>15} {'/ LoRA':>7}")
    for name, seconds in inference.items():
        ratios = (seconds / inference["frozen"], (encoding + seconds) / (encoding + inference["frozen"]))
        print(f"{name:34} {1e3 * seconds:9.1f} ms {ratios[0]:9.3f} {ratios[1]:8.3f}", end="")
        if name in training:
            print(f" {1e3 * training[name]:12.1f} ms {training[name] / training[peers[name]]:7.3f}", end="")
        print()
    print(f"{'the frozen visual encoders':34} {1e3 * encoding:9.1f} ms")


def make_frames(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    frames = torch.randn(options.clips, options.frames, 3, options.size, options.size)
    return frames, torch.ones(options.clips, options.frames, dtype=torch.bool)


@torch.no_grad()
def encode(grounder: Grounder, frames: Tensor, mask: Tensor) -> BackboneFeatures:
    return grounder.eval().encode(frames, mask)


def make_rows(grounder: Grounder, tuner: NullSpaceTuning) -> list[Row]:
    row, gated = partial(tuned, grounder), partial(hard_gated, grounder, tuner)
    lora = lora_beside(tuner)
    rows = [
        row("frozen", ZeroShot(), trains=False),
        row("LoRA", replace(lora)),
        row("NST, literal W(x + dx)", replace(tuner, forward_mode="literal")),
        row("NST", replace(tuner)),
        row("NST, retrieval with four heads", replace(tuner, heads=4)),
        folded(row("NST, folded", replace(tuner), trains=False)),
        gated("NST, folded, hard, all clips LQ", 1.0),
        gated("NST, folded, hard, all clips HQ", 0.0),
    ]
    if reaches_fusion(grounder, tuner):
        rows += [
            twinned(grounder, "LoRA, clean twin", lora, remembers=True),
            twinned(grounder, "NST, clean twin", replace(tuner), remembers=True),
        ]
    return rows


def lora_beside(tuner: NullSpaceTuning) -> LoRA:
    """LoRA in the same layers, of the same rank."""
    return LoRA(targets=tuner.targets, rank=tuner.rank, alpha=tuner.rank)


def tuned(grounder: Grounder, name: str, tuner: Tuner, **options: Any) -> Row:
    """A copy under a tuner."""
    model = copy.deepcopy(grounder)
    tuner.inject(model)
    return Row(name, model, tuner, **options)


def folded(row: Row) -> Row:
    """Its null branch becomes part of the weights."""
    assert isinstance(row.tuner, NullSpaceTuning)
    row.tuner.fold(row.grounder)
    return row


def hard_gated(grounder: Grounder, tuner: NullSpaceTuning, name: str, value: float, **options: Any) -> Row:
    """Folded null-space tuning whose one gate says the same of all clips: 1 low quality, 0 high quality."""
    nst = replace(tuner, gate="hard", router="shared")
    row = folded(tuned(grounder, name, nst, trains=False, **options))
    return replace(row, around=lambda: nst.override_gate(value))


def twinned(grounder: Grounder, name: str, tuner: Tuner, *, remembers: bool, **options: Any) -> Row:
    """With the clean twin; what ``remembers`` has its targets from memory, as cached features let it."""
    model = copy.deepcopy(grounder)
    twin = CleanTwin(model)
    tuner.inject(model)
    twin.keep_apart(model)
    if remembers:
        twin.remember()
    return Row(name, model, tuner, twin=twin, **({"peer": "LoRA, clean twin"} | options))


def reaches_fusion(grounder: Grounder, tuner: NullSpaceTuning) -> bool:
    """Whether anything is tuned ahead of the decoders, where the clean twin has its tokens."""
    tuned = select_by_name(grounder, tuner.targets).values()
    return any(layer in tuned for part in grounder.fusion() for layer in part.modules())


def infer(row: Row, features: BackboneFeatures, mask: Tensor) -> None:
    row.tuner.set_training(row.grounder, False)
    with torch.inference_mode(), row.around():
        row.grounder.ground(features, mask, [QUERY] * len(mask))


def training_step(
    row: Row,
    features: BackboneFeatures,
    mask: Tensor,
    qualities: Tensor,
    *,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    fused: bool | None = None,
) -> Callable[[], None]:
    """Forward, backward and the step, on a stand-in for the grounding loss that reaches every output.

    Args:
        precision: what the forward pass runs in.
        fused: AdamW in one kernel, or not; by default as PyTorch chooses.
    """
    optimizer = torch.optim.AdamW(row.tuner.trainable_parameters(row.grounder), lr=0.0, fused=fused)
    queries = [QUERY] * len(mask)

    def step() -> None:
        row.tuner.set_training(row.grounder, True)
        with precision():
            with row.tuner.conditioned_on(qualities):
                output = row.grounder.ground(features, mask, queries)
            loss = total(output) + sum(row.tuner.auxiliary_losses(qualities).values(), torch.zeros(()))
            if row.twin is not None:
                assert output.fused is not None
                target = row.twin.targets(features, mask, queries)
                loss = loss + twin_distance(output.fused, target, mask).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def total(output: GroundingOutput) -> Tensor:
    return sum(
        (part.float().square().mean() for part in output.answers.values()),
        torch.zeros(()),
    )


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
