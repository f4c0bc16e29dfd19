"""A finished study in miniature: two methods in two scopes, two seeds, two draws, four clips."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.evaluation import render_ground_truth, render_predictions
from stvg_nst.report.findings import Findings, Method, Replicate
from stvg_nst.results.results_file import RunResults
from stvg_nst.study import Study, StudyRun, planned_runs, read_studies
from stvg_nst.study.runs import RunTest
from tests.stvg_nst.study.conftest import content, program, write  # noqa: F401

KINDS = ("defocus:1", "defocus:5", "low_light:1", "low_light:5")
ITEMS = [(f"c{clip}/{kind}", kind, KINDS[clip]) for clip in range(4) for kind in ("declarative", "interrogative")]
# What a method adds to the overlap of every sample, on HQ and on LQ.
EFFECTS = {None: (0.0, 0.0), "LoRA": (-0.04, 0.1), "NST": (-0.01, 0.08)}
POINTS = ("decoder / LoRA", "decoder / NST", "whole / LoRA")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    tuner = tmp_path / "tuner.yaml"
    tuner.write_text("model: {tuner: {class_path: T, init_args: {rank: 1}}}\ndata: {init_args: {root: data}}\n")
    peers = {
        "title": "Peers",
        "seeds": [0, 1],
        "minutes_per_run": 1,
        "overlays": [],
        "baseline": [str(tuner)],
        "tuner": [str(tuner)],
        "tests": {"draw 0": {}, "draw 1": {"data.init_args.benchmark_seed": 1}},
        "points": {name: {"model.tuner.init_args.rank": 2 + index} for index, name in enumerate(POINTS)},
    }
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(peers))
    return read_studies(path)[0]


@pytest.fixture
def finish(study: Study, tmp_path: Path) -> Callable[..., Path]:
    """Writes what the baseline and all runs but some would leave, and returns the folder of all runs.

    ``level`` is added to every overlap, the baseline's included, as a better grounder would.
    """

    def finished(
        without: Callable[[StudyRun], bool] = lambda run: False, *, of: Study = study, level: float = 0.0
    ) -> Path:
        baseline, runs = planned_runs(of, of.folder_in(tmp_path / "runs"))
        for run in (baseline, *(run for run in runs if not without(run))):
            run.write_config()
            for draw, test in enumerate(run.tests):
                write_test(run, test.folder, draw, level)
        return tmp_path / "runs"

    return finished


def write_test(run: StudyRun, folder: Path, draw: int, level: float) -> None:
    samples = list(samples_of(run, draw, level))
    results = {
        "schema": 1,
        "method": "T",
        "dataset": "MiniSTVG",
        "split": "test",
        "metrics": metrics_of(samples),
        "samples": samples,
        "seed": run.seed or 0,
        "benchmark_seed": draw,
        "trainable_parameters": 0 if run.point is None else 1500,
        "total_parameters": 9000,
        "versions": {},
        "git_commit": None,
        "config_hash": "",
        "wall_seconds": 1.0,
        "skipped": 0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    tube = {"start": 2, "stop": 6, "boxes": [[4, 4, 12, 12]] * 4}
    answers = [
        {"item_id": item, "condition": condition, **tube} for item, _, kind in ITEMS for condition in ("HQ", kind)
    ]
    truth = [{"item_id": item, "sentence_type": kind, "conditions": ["HQ", low], **tube} for item, kind, low in ITEMS]
    (folder / "predictions.json").write_text(render_predictions("T", answers))
    (folder / "ground_truth.json").write_text(render_ground_truth("MiniSTVG", "test", truth))


def samples_of(run: StudyRun, draw: int, level: float) -> Iterator[dict[str, Any]]:
    """Overlaps of 0.4 and more: higher for later clips, on HQ, of later seeds and of the second draw's LQ."""
    effects = EFFECTS[None if run.point is None else run.point.split(" / ")[1]]
    for index, (item, sentence_type, kind) in enumerate(ITEMS):
        for quality, base, effect in (("HQ", 0.6, effects[0]), ("LQ", 0.4 + 0.02 * draw, effects[1])):
            overlap = level + base + 0.01 * (index // 2) + effect + 0.02 * (run.seed or 0) * (effect != 0)
            yield {
                "item_id": item,
                "quality": quality,
                "sentence_type": sentence_type,
                "degradation": kind if quality == "LQ" else None,
                "tIoU": overlap + 0.1,
                "vIoU": overlap,
            }


def metrics_of(samples: list[dict[str, Any]]) -> dict[str, float]:
    metrics = {}
    for view in ("HQ", "LQ", "MQ"):
        for kind in (None, "declarative", "interrogative"):
            members = [s for s in samples if view in (s["quality"], "MQ") and kind in (None, s["sentence_type"])]
            prefix = f"{view}/{kind}/" if kind else f"{view}/"
            for name, key in (("m_tIoU", "tIoU"), ("m_vIoU", "vIoU")):
                metrics[prefix + name] = 100 * sum(s[key] for s in members) / len(members)
            for threshold in (0.3, 0.5):
                hits = sum(s["vIoU"] > threshold for s in members)
                metrics[f"{prefix}vIoU@{threshold}"] = 100 * hits / len(members)
    return metrics


@pytest.fixture
def findings() -> Findings:
    """Three points: with two of two seeds, one of two, and none. LQ gains 1 and 2, HQ loses half a point."""
    counts = {"full": 2, "a|b": 1, "broken": 0}
    study = Study(Path("study.yaml"), "A study", (0, 1), 1, {}, {point: {} for point in counts}, {}, {}, {"": {}})
    baseline = measured(None, None, gain=0.0, change=0.0)
    methods = []
    for point, count in counts.items():
        own = [measured(point, seed, gain=1.0 + seed, change=-0.5) for seed in range(count)]
        methods.append(Method(point, tuple((one, baseline) for one in own), 2, 2, 0 if count else 2))
    return Findings(study, (baseline,), tuple(methods), ("INCOMPLETE: 1 of 7 runs are not finished",))


def measured(point: str | None, seed: int | None, *, gain: float, change: float) -> Replicate:
    """A run whose metrics are all 50 on HQ and 30 on LQ, but for what its point gains and loses."""
    names = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
    points = {"HQ": 50.0 + change, "LQ": 30.0 + gain, "WAS": gain + change}
    results = RunResults(
        path=Path("run/results.json"),
        method="ZeroShot" if point is None else "NST",
        dataset="MiniSTVG",
        split="val",
        metrics={f"{view}/{name}": points[view] for view in ("HQ", "LQ") for name in names},
        samples=(),
        seed=seed or 0,
        benchmark_seed=3,
        trainable_parameters=0 if point is None else 1500,
        total_parameters=9,
        versions={},
        git_commit=None,
        config_hash="",
        wall_seconds=1.0,
        skipped=0,
    )
    run = StudyRun(point, seed, Path("run"), {}, (RunTest("", Path("run"), {}, None),))
    return Replicate(
        "", run.folder, run, results, {f"{view}/{name}": points[view] for view in points for name in names}
    )
