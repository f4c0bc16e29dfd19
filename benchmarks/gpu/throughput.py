"""Clips a second of a card, from which `python -m stvg_nst workload` computes GPU-hours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.gpu.plan import Plan
from stvg_nst.machine.whole_files import whole_file

FRAMES = 64  # of a clip, in all studies of experiments/paper/
ROWS = {"training": ("tuning", "NST"), "inference": ("inference", "frozen")}


def clips_a_second(parts: Mapping[str, Any], plan: Plan) -> dict[str, float]:
    """Of a step of tuning and of the frozen model, visual encoders included, where they were measured.

    Args:
        parts: what each part has found, as it is written to the file of all numbers.
    """
    rates = {}
    for name, (part, model) in ROWS.items():
        tables = parts.get(part, {"tables": []})["tables"]
        by_length = dict(zip(plan.lengths, tables, strict=False))  # a part may have ended early
        for row in by_length.get(FRAMES, {"rows": []})["rows"]:
            if row["name"] == model and isinstance(row.get("whole ms"), float):
                rates[name] = round(1e3 * plan.clips / row["whole ms"], 4)
    return rates


def write_throughput(file: Path, machine: str, parts: Mapping[str, Any], plan: Plan) -> str:
    """Writes what a card does in a second, and says so, or why not."""
    rates = clips_a_second(parts, plan)
    if plan.device != "cuda":
        return f"'{file}' is not written: this is no GPU"
    if missing := sorted(ROWS.keys() - rates.keys()):
        return (
            f"'{file}' is not written: {' and '.join(missing)} at {FRAMES} frames were not measured to the end; give "
            f"--part {' '.join(part for part, _ in ROWS.values())} --frames {FRAMES}"
        )
    with whole_file(file) as partial:
        partial.write_text(yaml.safe_dump({"device": machine, **rates}, sort_keys=False))
    return f"clips a second, for `python -m stvg_nst workload`: {file}"
