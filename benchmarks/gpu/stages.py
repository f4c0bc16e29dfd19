"""Part `stages`: clips a second by stage, in every precision, and what limits each."""

from __future__ import annotations

from benchmarks.cases import Case, batch_of, build, precision_of
from benchmarks.gpu.peaks import Peaks, measure_peaks
from benchmarks.gpu.plan import Found, Plan, attempted
from benchmarks.gpu.report import Report
from benchmarks.stages import stage_timings, stage_work
from benchmarks.timing import Timing
from benchmarks.work import Work
from stvg_nst.models.base import Grounder

COLUMNS = ("ms", "spread", "clips/s", "TFLOP/s", "MFU", "FLOP/byte", "floor ms", "of floor", "limit")
# Where a stage takes this many times what its calls need at least, the card waits for the host, or its kernels are far
# from what it can do. Part `kernels` says which.
FAR = 2.5


def measure_stages(plan: Plan, report: Report) -> None:
    peaks = measure_peaks(plan, plan.precisions, report)
    grounder, _ = build(plan.cases()[0])
    grounder.to(plan.device)
    report.table("inference of the frozen model, by stage", COLUMNS)
    for case in plan.cases():
        for name, values in attempted(lambda case=case: _rows(case, grounder, peaks), case.title, COLUMNS[0]):
            report.row(name, values)


def _rows(case: Case, grounder: Grounder, peaks: Peaks) -> list[Found]:
    frames, mask = batch_of(case)
    with precision_of(case):
        work = stage_work(grounder, frames, mask)
        timings = stage_timings(case, grounder, frames, mask, warm_up=2)
    work["all"] = Work(sum((part.calls for part in work.values()), start=Work().calls))
    return [(f"{case.title}, {name}", row(case, timings[name], work[name], peaks)) for name in work]


def row(case: Case, timing: Timing, work: Work, peaks: Peaks) -> dict[str, float | str]:
    """The columns of a stage."""
    seconds = timing.median
    compute, traffic = peaks.floor(work, case.precision)
    rate = work.flops / seconds
    return {
        "ms": 1e3 * seconds,
        "spread": timing.spread,
        "clips/s": case.clips / seconds,
        "TFLOP/s": rate / 1e12,
        "MFU": rate / peaks.operations[case.precision],
        "FLOP/byte": work.flops / work.traffic,
        "floor ms": 1e3 * (compute + traffic),
        "of floor": (compute + traffic) / seconds,
        "limit": limit(seconds, compute, traffic),
    }


def limit(seconds: float, compute: float, traffic: float) -> str:
    """What most of a stage's time goes by: products, memory traffic, or neither."""
    if seconds > FAR * (compute + traffic):
        return "neither"
    return "compute" if compute >= traffic else "memory traffic"
