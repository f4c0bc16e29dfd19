"""Part `memory`: the measured peak of a card next to the computed budget of docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from benchmarks.cases import HALF, QUERY, Case, batch_of, build, precision_of
from benchmarks.gpu.plan import Found, Plan, attempted, peak_gib
from benchmarks.gpu.report import Report
from benchmarks.memory import KINDS, live_bytes, need
from benchmarks.tuning import Row, training_step
from stvg_nst.types import BackboneFeatures

COLUMNS = ("GiB", "budget GiB", "/ budget")


def measure_memory(plan: Plan, report: Report) -> None:
    budgets = {
        half: live_bytes(replace(plan.case("bf16" if half else "fp32", 1), device="cpu", clips=1))
        for half in sorted({precision in HALF for precision in plan.precisions})
    }
    grounder, nst = build(plan.cases()[0])
    nst.inject(grounder)
    row = Row("NST", grounder.to(plan.device), nst)
    report.table("peak of the tensors", COLUMNS)
    for case in plan.cases():
        for kind, work in _works(case, row).items():
            fixed, each = need(budgets[case.precision in HALF], kind, case.frames)
            budget = fixed + case.clips * each

            def found(
                case: Case = case, kind: str = kind, work: Callable[[], None] = work, budget: float = budget
            ) -> list[Found]:
                gib = peak_gib(work, case.device, row.grounder.state_dict().values())
                return [(f"{case.title}, {kind}", {"GiB": gib, "budget GiB": budget, "/ budget": gib / budget})]

            for name, values in attempted(found, f"{case.title}, {kind}", COLUMNS[0]):
                report.row(name, values)


def _works(case: Case, row: Row) -> dict[str, Callable[[], None]]:
    """From the frames on, which are part of it."""

    def encoded() -> tuple[BackboneFeatures, torch.Tensor]:
        frames, mask = batch_of(case)
        with torch.no_grad(), precision_of(case):
            return row.grounder.encode(frames, mask, [(case.height, case.width)] * case.clips), mask

    def inference() -> None:
        features, mask = encoded()
        row.tuner.set_training(row.grounder, False)
        with torch.no_grad(), precision_of(case):
            row.grounder.ground(features, mask, [QUERY] * case.clips)

    def tuning() -> None:
        features, mask = encoded()
        qualities = torch.arange(case.clips, device=case.device) % 2
        training_step(row, features, mask, qualities, precision=partial(precision_of, case))()

    return dict(zip(KINDS, (inference, tuning), strict=True))
