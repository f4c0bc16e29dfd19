"""What each method costs: parameters, time and memory, in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stvg_nst.report.findings import Findings
from stvg_nst.report.numbers import parameter_count
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.study import StudyError
from stvg_nst.study.definition import scope_and_name

_COLUMNS = {
    "trainable": "Trainable",
    "share": "Share, %",
    "layers": "Layers",
    "step_ms": "Step, ms",
    "step_ratio": "Step / LoRA in scope",
    "step_mib": "Step, MiB",
    "inference_ms": "Inference, ms",
    "inference_ratio": "Inference / frozen",
    "inference_mib": "Inference, MiB",
}


def cost_sheet(findings: Findings, path: Path | None) -> Sheet:
    """The rows of ``benchmarks/peers.py``, which times all methods in turns on one machine.

    Raises:
        StudyError: the file is missing, was not written by that program, or does not have the settings of the runs.
    """
    costs = _read(path)
    for method in findings.methods:
        timed = costs["rows"].get(method.point, {}).get("trainable")
        if None not in (timed, method.trainable_parameters) and timed != method.trainable_parameters:
            raise StudyError(
                f"{path}: {method.point} was timed with {timed} trainable parameters, but its runs have "
                f"{method.trainable_parameters}; measure the costs again with `make bench-peers`"
            )
    rows, records = [], []
    for point, found in costs["rows"].items():
        scope, name = scope_and_name(point)
        rows.append((Cell(scope), Cell(name), *(Cell(_shown(key, found.get(key))) for key in _COLUMNS)))
        records.append(
            {"study": findings.study.title, "scope": scope, "method": name, **{key: found.get(key) for key in _COLUMNS}}
        )
    section = Section("", ("Scope", "Method", *_COLUMNS.values()), tuple(rows))
    notes = (str(costs["conditions"]),)
    title = f"{findings.study.title}. Cost of tuning and of inference"
    return Sheet(title, (section,), notes, tuple(records), "cost")


def _read(path: Path | None) -> Mapping[str, Any]:
    if path is None or not path.is_file():
        raise StudyError(f"the table of costs needs what benchmarks/peers.py wrote, got '{path}'; name it with --costs")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise StudyError(f"{path}: is no JSON ({error}); measure the costs again with `make bench-peers`") from error
    if not isinstance(content, dict) or not {"conditions", "rows"} <= content.keys():
        raise StudyError(f"{path}: expected the fields 'conditions' and 'rows' of benchmarks/peers.py")
    return content


def _shown(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key == "trainable":
        return parameter_count(int(value))
    return str(value) if key == "layers" else f"{value:.2f}"
