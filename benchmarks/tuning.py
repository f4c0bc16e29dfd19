"""What tuning costs: `make bench-tuning`.

Times the grounding model alone, on random backbone features, so that no decoding hides the difference. Every row tunes
the layers of the NST overlay. Rows take turns, and the table gives medians and ratios within one run: absolute times on
a shared machine mean little.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from stvg_nst.models.base import Grounder
from stvg_nst.tuning import LoRA, NullSpaceTuning, Tuner, ZeroShot
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("experiments/model/mini.yaml"))
    parser.add_argument("--tuner", type=Path, default=Path("experiments/tuner/nst.yaml"), help="an overlay of NST")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--clips", type=int, default=8, help="of a batch; half of them count as low quality")
    parser.add_argument("--size", type=int, default=128, help="of a frame, in pixels")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    grounder, tuner = build(options.model, options.tuner)
    features, mask = make_features(grounder, options)
    qualities = torch.arange(options.clips) % 2
    rows = make_rows(grounder, tuner)
    inference = measure([(row, lambda row=row: infer(row, features, mask)) for row in rows], options.repeats)
    training = measure(
        [(row, lambda row=row: train(row, features, mask, qualities)) for row in rows if row.trains], options.repeats
    )
    print(
        f"{options.clips} clips of {options.frames} frames, {options.threads} thread(s), median of {options.repeats}\n"
        f"{'':34} {'inference':>12} {'/ frozen':>9} {'training step':>15} {'/ LoRA':>8}"
    )
    for row in rows:
        step = training.get(row.name)
        print(
            f"{row.name:34} {1e3 * inference[row.name]:9.1f} ms {inference[row.name] / inference['frozen']:9.3f}"
            + ("" if step is None else f" {1e3 * step:12.1f} ms {step / training['LoRA']:8.3f}")
        )


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
    return built.grounder, built.tuner


def make_features(grounder: Grounder, options: argparse.Namespace) -> tuple[BackboneFeatures, Tensor]:
    frames = torch.randn(options.clips, options.frames, 3, options.size, options.size)
    mask = torch.ones(options.clips, options.frames, dtype=torch.bool)
    with torch.no_grad():
        return grounder.encode(frames, mask, [(options.size, options.size)] * options.clips), mask


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

    rows = [
        row("frozen", ZeroShot(), trains=False),
        row("LoRA", LoRA(targets=tuner.targets, rank=tuner.rank, alpha=tuner.rank)),
        row("NST, literal W(x + dx)", replace(tuner, forward_mode="literal")),
        row("NST", replace(tuner)),
        row("NST, folded", replace(tuner), trains=False),
        gated("NST, folded, hard, all clips LQ", 1.0, folded=True),
        gated("NST, folded, hard, all clips HQ", 0.0, folded=True),
    ]
    folded = rows[4]
    assert isinstance(folded.tuner, NullSpaceTuning)
    folded.tuner.fold(folded.grounder)
    return rows


def infer(row: Row, features: BackboneFeatures, mask: Tensor) -> None:
    row.tuner.set_training(row.grounder, False)
    with torch.inference_mode(), row.around():
        row.grounder.ground(features, mask, [QUERY] * len(mask))


def train(row: Row, features: BackboneFeatures, mask: Tensor, qualities: Tensor) -> None:
    """Forward, backward and the step, on a stand-in for the grounding loss that reaches every output."""
    parameters = row.tuner.trainable_parameters(row.grounder)
    optimizer = torch.optim.AdamW(parameters, lr=0.0)
    row.tuner.set_training(row.grounder, True)
    output = row.grounder.ground(features, mask, [QUERY] * len(mask))
    loss = total(output) + sum(row.tuner.auxiliary_losses(qualities).values(), torch.zeros(()))
    loss.backward()
    optimizer.step()
    nn.Module.zero_grad(row.grounder)


def total(output: GroundingOutput) -> Tensor:
    return sum(
        (part.square().mean() for part in (output.boxes, output.confidence, output.start_end, output.actioness)),
        torch.zeros(()),
    )


def measure(rows: list[tuple[Row, Callable[[], None]]], repeats: int) -> dict[str, float]:
    """Median seconds by name; the first round warms up, and the rows take turns so that a busy machine hits all."""
    seconds: dict[str, list[float]] = {row.name: [] for row, _ in rows}
    for repeat in range(repeats + 1):
        for row, work in rows:
            start = time.perf_counter()
            work()
            if repeat:
                seconds[row.name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
