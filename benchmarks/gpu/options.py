"""Part `options`: options of PyTorch, each on and off."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from benchmarks.cases import Case, batch_of, build, precision_of, without_backbones
from benchmarks.gpu.grounding import full_tuner, place
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.report import Report
from benchmarks.stages import DECODERS, stage_timings, stages_of
from benchmarks.timing import Timing, timed
from benchmarks.tuning import training_step, tuned
from stvg_nst.models.base import Grounder

COLUMNS = ("off ms", "on ms", "on / off", "spread")
# The text encoder is left out: its first call is longer than all that it could save.
COMPILED = {
    "ResNet": ("visual",),
    "VidSwin": ("motion",),
    "encoder": ("encoder",),
    DECODERS: ("time_decoder", "box_decoder", "decoder"),
}


def measure_options(plan: Plan, report: Report) -> None:
    case = plan.case(plan.main_precision, plan.lengths[0])
    grounder, nst = build(case)
    frames, mask = batch_of(case)
    grounder.to(plan.device)
    _channels_last(case, grounder, frames, report)
    bare = without_backbones(grounder)
    rows = [tuned(bare, name, tuner) for name, tuner in (("NST", nst), ("full fine-tuning", full_tuner(plan.full)))]
    place(rows, plan.device)
    with torch.no_grad(), precision_of(case):
        features = grounder.encode(frames, mask, [(case.height, case.width)] * case.clips)
    qualities = torch.arange(case.clips, device=case.device) % 2
    report.table(f"fused AdamW: a step of tuning, {case.title}", COLUMNS)
    for row in rows:
        works = {
            name: training_step(row, features, mask, qualities, precision=partial(precision_of, case), fused=fused)
            for name, fused in (("off", False), ("on", True))
        }
        report.row(row.name, _on_and_off(timed(works, case.repeats, case.device, warm_up=2)))
    _compile(case, grounder, frames, mask, report)


def _channels_last(case: Case, grounder: Grounder, frames: torch.Tensor, report: Report) -> None:
    """The image encoder, which hands its images over in channels last anyway."""
    images = frames.flatten(0, 1)
    body = grounder.get_submodule("visual.body")
    last = copy.deepcopy(body).to(memory_format=torch.channels_last)
    images_last = images.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), precision_of(case):
        timings = timed(
            {"off": lambda: body(images), "images": lambda: body(images_last), "weights": lambda: last(images_last)},
            case.repeats,
            case.device,
            warm_up=2,
        )
    report.table(f"channels last: the image encoder at once, {case.title}", COLUMNS)
    for name, key in (("of the images, as the suite has it", "images"), ("of the images and the weights", "weights")):
        report.row(name, _on_and_off({"off": timings["off"], "on": timings[key]}))


def _compile(case: Case, grounder: Grounder, frames: torch.Tensor, mask: torch.Tensor, report: Report) -> None:
    """Each stage by itself; the last, for it may take minutes."""
    backend = "inductor" if case.device == "cuda" else "eager"
    columns = (*COLUMNS, "first call s")
    report.table(f"torch.compile, backend {backend}: inference, {case.title}", columns)
    with precision_of(case):
        off = stage_timings(case, grounder, frames, mask, warm_up=2)
        for stage in (name for name in stages_of(grounder) if name in COMPILED):
            for path in (path for path in COMPILED[stage] if hasattr(grounder, path)):
                module = grounder.get_submodule(path)
                # Not the module, whose hooks read the clock.
                module.forward = torch.compile(module.forward, backend=backend)
            start = time.perf_counter()
            stage_timings(replace(case, repeats=1), grounder, frames, mask, warm_up=0)
            first = time.perf_counter() - start
            on = stage_timings(case, grounder, frames, mask, warm_up=2)
            report.row(stage, {**_on_and_off({"off": off[stage], "on": on[stage]}), "first call s": first})


def _on_and_off(timings: Mapping[str, Timing]) -> dict[str, float | str]:
    off, on = timings["off"], timings["on"]
    if off.fault or on.fault:
        return {f"{name} ms": timing.fault or 1e3 * timing.median for name, timing in timings.items()}
    ratio = on.median / off.median
    return {
        "off ms": 1e3 * off.median,
        "on ms": 1e3 * on.median,
        "on / off": ratio,
        "spread": max(off.spread, on.spread),
    }
