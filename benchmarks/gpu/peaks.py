"""What the machine can do at best, measured in the same run: a large product of matrices, and a copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from benchmarks.cases import HALF, Precision, precision_of
from benchmarks.gpu.plan import Plan
from benchmarks.gpu.report import Report
from benchmarks.timing import timed
from benchmarks.work import Work


@dataclass(frozen=True, slots=True)
class Peaks:
    """Operations a second by precision, and bytes a second of a copy, read and written."""

    operations: dict[Precision, float]
    bandwidth: float

    def floor(self, work: Work, precision: Precision) -> tuple[float, float]:
        """Seconds that work takes at least: of the calls that products limit, and of those that memory limits."""
        compute = traffic = 0.0
        for call, times in work.calls.items():
            computing, moving = call.flops / self.operations[precision], call.traffic / self.bandwidth
            compute += times * computing if computing >= moving else 0.0
            traffic += times * moving if computing < moving else 0.0
        return compute, traffic


def measure_peaks(plan: Plan, precisions: Sequence[Precision], report: Report) -> Peaks:
    """And says them. Of a card they take a second or two; a CPU has smaller matrices."""
    side, size = (8192, 2**30) if plan.device == "cuda" else (512, 2**22)
    operations: dict[Precision, float] = {}
    for precision in precisions:
        a, b = torch.randn(2, side, side, device=plan.device).to(HALF.get(precision, torch.float32))
        with precision_of(plan.case(precision, 1)):
            product = timed({"product": lambda a=a, b=b: a @ b}, 10, plan.device, warm_up=3)["product"]
        operations[precision] = 2 * side**3 / product.median
    source = torch.ones(size // 4, device=plan.device)
    target = torch.empty_like(source)
    copy = timed({"copy": lambda: target.copy_(source)}, 10, plan.device, warm_up=3)["copy"]
    peaks = Peaks(operations, 2 * size / copy.median)
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {precision}" for precision, rate in operations.items())
    report.note(f"at best here: {rates} (a product of {side} x {side}); {peaks.bandwidth / 1e9:.0f} GB/s (a copy)")
    return peaks
