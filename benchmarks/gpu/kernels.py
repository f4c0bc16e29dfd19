"""Part `kernels`: a stage compared with PyTorch's own kernels at their best on its shapes, and where the rest goes.

The best is the time of a stage's products, convolutions and attentions alone, each in a loop by itself: convolutions
with cuDNN's fastest algorithm and in the better of both memory formats. Normalisations, activations and copies do not
count.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.cases import QUERY, Case, batch_of, build, precision_of
from benchmarks.gpu.plan import Found, Plan, attempted
from benchmarks.gpu.report import Report
from benchmarks.stages import stage_timings, stage_work
from benchmarks.timing import between, now
from benchmarks.work import Call, Layout, Work
from stvg_nst.models.base import Grounder

AIM = 0.7
COLUMNS = ("ms", "kernels ms", "share", "calls")
LOOP = 0.01  # seconds that a kernel is repeated for, on a card: a launch is far shorter
SHOWN = 8  # operators of a profile


def measure_kernels(plan: Plan, report: Report) -> None:
    case = plan.case(plan.main_precision, plan.lengths[-1])
    grounder, _ = build(case)
    grounder.to(plan.device)
    report.table(f"stages beside their kernels alone, {case.title}", COLUMNS)
    rows = attempted(lambda: _stages(case, grounder), case.title, COLUMNS[0])
    for name, values in rows:
        report.row(name, values)
    slow = [name for name, values in rows if isinstance(share := values.get("share"), float) and share < AIM]
    if slow:
        report.note(f"below {AIM:.0%} of their kernels alone: {', '.join(slow)}; what the whole takes, by operator:")
        _profile(case, grounder, report)


def _stages(case: Case, grounder: Grounder) -> list[Found]:
    frames, mask = batch_of(case)
    found: list[Found] = []
    with precision_of(case):
        work = stage_work(grounder, frames, mask)
        timings = stage_timings(case, grounder, frames, mask, warm_up=2)
        del frames
        for name, part in work.items():
            best, seconds = best_seconds(part, case.device), timings[name].median
            calls = sum(times for call, times in part.calls.items() if call.flops)
            found.append(
                (name, {"ms": 1e3 * seconds, "kernels ms": 1e3 * best, "share": best / seconds, "calls": calls})
            )
    return found


@torch.no_grad()
def best_seconds(work: Work, device: str) -> float:
    """What the products, convolutions and attentions take by themselves."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        return sum(
            times * min(_seconds(call, device, last) for last in _formats(call))
            for call, times in work.calls.items()
            if call.flops
        )
    finally:
        torch.backends.cudnn.benchmark = before


def _formats(call: Call) -> tuple[bool, ...]:
    """Whether to try channels last: both of a convolution of images."""
    return (
        (False, True)
        if call.operation is torch.ops.aten.convolution.default and len(call.args[0].shape) == 4
        else (False,)
    )


def _seconds(call: Call, device: str, channels_last: bool) -> float:
    args = tuple(_made(value, device, channels_last) for value in call.args)
    kwargs = {name: _made(value, device, channels_last) for name, value in call.kwargs}
    loop = 1
    call.operation(*args, **kwargs)
    while True:
        start = now(device)
        for _ in range(loop):
            call.operation(*args, **kwargs)
        elapsed = between(start, now(device))
        if device == "cpu" or elapsed >= LOOP:
            return elapsed / loop
        loop = max(2 * loop, int(1.2 * loop * LOOP / max(elapsed, 1e-6)))


def _made(value: Any, device: str, channels_last: bool) -> Any:
    """Random values for a layout; anything else as it is."""
    if isinstance(value, tuple):
        return [_made(item, device, channels_last) for item in value]
    if not isinstance(value, Layout):
        return value
    # What is expanded along an axis lies in memory once.
    sizes = [1 if stride == 0 else size for size, stride in zip(value.shape, value.strides, strict=True)]
    tensor: Tensor = torch.empty_strided(sizes, value.strides, dtype=value.dtype, device=device)
    tensor = (tensor.normal_() if value.dtype.is_floating_point else tensor.zero_()).expand(value.shape)
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last and tensor.ndim == 4 else tensor


def _profile(case: Case, grounder: Grounder, report: Report) -> None:
    frames, mask = batch_of(case)
    card = case.device == "cuda"
    with precision_of(case):
        stage_timings(case, grounder, frames, mask, warm_up=0)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if card else [])]
        with profile(activities=activities) as profiler:
            start = now(case.device)
            with torch.inference_mode():
                grounder(frames, mask, [QUERY] * case.clips)
            wall = between(start, now(case.device))
    own = {
        event.key: (event.self_device_time_total if card else event.self_cpu_time_total) / 1e6
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CPU  # operators, and not a second time their kernels
    }
    report.table(f"operators by their own time, {case.title}", ("ms", "of all"))
    for name in sorted(own, key=lambda name: own[name], reverse=True)[:SHOWN]:
        report.row(name[:60], {"ms": 1e3 * own[name], "of all": own[name] / wall})
    if card:
        report.row(
            "nothing: the card waits", {"ms": 1e3 * (wall - sum(own.values())), "of all": 1 - sum(own.values()) / wall}
        )
