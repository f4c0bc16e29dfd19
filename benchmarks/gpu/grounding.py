"""Parts `tuning` and `inference`: what a method costs beside LoRA, and beside the frozen model, in the same run.

Rows ground the same features. "whole" adds the visual encoders to both sides of a ratio; a step with the clean twin
encodes its half of low-quality clips a second time, in high quality.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

from benchmarks.cases import Case, batch_of, build, precision_of, without_backbones
from benchmarks.gpu.plan import Plan, peak_gib
from benchmarks.gpu.report import Report, Value
from benchmarks.timing import OUT_OF_MEMORY, Timing, free_memory, timed
from benchmarks.tuning import Row, folded, hard_gated, infer, lora_beside, training_step, tuned, twinned
from stvg_nst.models.base import Grounder
from stvg_nst.tuning import Tuner, ZeroShot
from stvg_nst.types import BackboneFeatures

STEP_COLUMNS = ("ms", "spread", "/ LoRA", "whole ms", "whole / LoRA", "GiB")
INFERENCE_COLUMNS = ("ms", "spread", "/ frozen", "whole ms", "whole / frozen", "GiB")
LOW_QUALITY = 0.5  # of the clips


def measure_tuning(plan: Plan, report: Report) -> None:
    """A step of the optimiser: forward, backward, AdamW."""
    grounder, nst = build(plan.cases()[0])
    bare = without_backbones(grounder)
    methods: dict[str, Tuner] = {"LoRA": lora_beside(nst), "NST": nst, "full fine-tuning": full_tuner(plan.full)}
    rows = [tuned(bare, name, replace(tuner)) for name, tuner in methods.items()]
    rows += [
        twinned(bare, f"{name}, clean twin", replace(tuner), remembers=False, peer="LoRA")
        for name, tuner in methods.items()
    ]
    place(rows, plan.device)

    def works(case: Case, row: Row, features: BackboneFeatures, mask: Tensor) -> Callable[[], None]:
        qualities = torch.arange(case.clips, device=case.device) % 2
        return training_step(row, features, mask, qualities, precision=partial(precision_of, case))

    for case in plan.cases(plan.main_precision):
        report.table(f"a step of tuning, {case.title}", STEP_COLUMNS)
        _compare(case, grounder.to(plan.device), rows, works, report, "LoRA")


def measure_inference(plan: Plan, report: Report) -> None:
    grounder, nst = build(plan.cases()[0])
    bare = without_backbones(grounder)
    rows = [
        tuned(bare, "frozen", ZeroShot()),
        tuned(bare, "LoRA", lora_beside(nst)),
        tuned(bare, "NST", replace(nst)),
        folded(tuned(bare, "NST, folded", replace(nst))),
        hard_gated(bare, nst, "NST, folded, hard, all clips LQ", 1.0),
        hard_gated(bare, nst, "NST, folded, hard, all clips HQ", 0.0),
    ]
    place(rows, plan.device)

    def works(case: Case, row: Row, features: BackboneFeatures, mask: Tensor) -> Callable[[], None]:
        def inference() -> None:
            with precision_of(case):
                infer(row, features, mask)

        return inference

    for case in plan.cases(plan.main_precision):
        report.table(f"inference, {case.title}", INFERENCE_COLUMNS)
        _compare(case, grounder.to(plan.device), rows, works, report, "frozen")


def _compare(
    case: Case,
    grounder: Grounder,
    rows: Sequence[Row],
    works: Callable[[Case, Row, BackboneFeatures, Tensor], Callable[[], None]],
    report: Report,
    peer: str,
) -> None:
    """A row of the table for each model, and one for the visual encoders that all share."""
    frames, mask = batch_of(case)
    sizes = [(case.height, case.width)] * case.clips

    @torch.no_grad()
    def encode() -> BackboneFeatures:
        with precision_of(case):
            return grounder.encode(frames, mask, sizes)

    encoders = timed({"encoders": encode}, case.repeats, case.device, warm_up=2)["encoders"]
    if encoders.fault:
        report.row("the frozen visual encoders", {"ms": encoders.fault})
        return
    features = encode()
    by_name = {row.name: works(case, row, features, mask) for row in rows}
    # Of a first run: the optimiser's state has to be made, and so is counted.
    peaks = {row.name: _peak(case, row, by_name[row.name], features) for row in rows}
    fitting = {name: work for name, work in by_name.items() if peaks[name] is not None}
    timings = timed(fitting, case.repeats, case.device, warm_up=2)
    for row in rows:
        timing = timings.get(row.name, Timing((), OUT_OF_MEMORY))
        if timing.fault:
            report.row(row.name, {"ms": timing.fault})
            continue
        whole = _whole(row, timing, encoders)
        values: dict[str, Value] = {
            "ms": 1e3 * timing.median,
            "spread": timing.spread,
            "whole ms": 1e3 * whole,
            "GiB": peaks[row.name],
        }
        if peer in timings and not (rival := timings[peer]).fault:
            values[f"/ {peer}"] = timing.median / rival.median
            values[f"whole / {peer}"] = whole / (encoders.median + rival.median)
        report.row(row.name, values)
    report.row("the frozen visual encoders", {"ms": 1e3 * encoders.median, "spread": encoders.spread})
    free_memory()


def _peak(case: Case, row: Row, work: Callable[[], None], features: BackboneFeatures) -> float | None:
    """GiB; nothing where the card has too little. What the twin keeps of the frozen model does not count."""
    try:
        return peak_gib(work, case.device, [*row.grounder.state_dict().values(), *features.maps])
    except torch.OutOfMemoryError:
        pass
    free_memory()
    return None


def _whole(row: Row, timing: Timing, encoders: Timing) -> float:
    """Seconds, with what the visual encoders take."""
    return timing.median + encoders.median * (1 + LOW_QUALITY if row.twin is not None else 1)


def place(rows: Sequence[Row], device: str) -> None:
    for row in rows:
        row.grounder.to(device)
        if row.twin is not None:
            row.twin.to(torch.device(device))


def full_tuner(overlay: Path) -> Tuner:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    return parser.instantiate(parser.parse_object(yaml.safe_load(overlay.read_text())["model"])).tuner
