"""The model card of a shared adapter: what it was tuned on, how it scored, and what is certain of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stvg_nst.evaluation import evaluate, load_ground_truth, load_predictions
from stvg_nst.report.certificate import certificate_sheet, load_certificate
from stvg_nst.report.sheet import sheet_markdown
from stvg_nst.results.metric_names import METRICS, MetricName
from stvg_nst.results.results_file import RunResults, load_results
from stvg_nst.results.run_folder import RunFile

REPLICATES = 1000


@dataclass(frozen=True, slots=True)
class Shared:
    """What a card says beside the run's own files.

    Args:
        name: ``user/name`` on the hub.
        loading: how it is loaded, in Python.
        tuner: class of the method.
        options: of the method.
        base: the frozen weights, in words.
        frozen: their fingerprint, SHA-256 in hex.
        config: of the fit, as the run keeps it.
    """

    name: str
    loading: str
    tuner: str
    options: Mapping[str, Any]
    base: str
    frozen: str
    config: Mapping[str, Any]


def model_card(shared: Shared, run: Path, baseline: Path | None) -> str:
    """The card, as Markdown with the hub's header.

    Args:
        run: folder of the fit; its results, tubes and certificate are told where they are there.
        baseline: folder of the zero-shot test, which has left its tubes, for intervals of the WAS.
    """
    method = shared.tuner.rpartition(".")[2]
    header = {
        "library_name": "stvg_nst",
        "tags": ["spatio-temporal-video-grounding", "adapter", method],
        "pipeline_tag": "video-text-to-text",
    }
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {shared.name}",
        f"An adapter by {method} for a frozen spatio-temporal video grounder. It is made to restore degraded film, and "
        "to keep what the grounder does on clean film.",
        f'```python\nfrom stvg_nst import load\n\n{shared.loading}.ground("clip.mp4", "a sentence")\n```',
        "\n".join(["## What it belongs to", "", *_origin(shared)]),
        "\n".join(["## Scores", "", *_scores(run, baseline)]),
        *_certificate(run / RunFile.CERTIFICATE),
        f"## Options of the method\n\n```json\n{json.dumps(dict(shared.options), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(shared: Shared) -> Iterator[str]:
    data, trainer = shared.config["data"], shared.config.get("trainer", {})
    chosen = data.get("init_args", {})
    yield f"* frozen weights: {shared.base}; fingerprint `{shared.frozen}`, without which it does not load"
    yield f"* data: {data['class_path'].rpartition('.')[2]}, training clips: {chosen.get('training_clips') or 'all'}"
    yield f"* seed: {shared.config['seed_everything']}, epochs: {trainer.get('max_epochs')}"


def _scores(run: Path, baseline: Path | None) -> Iterator[str]:
    results = run / RunFile.RESULTS
    if not results.is_file():
        yield "It has not been tested."
        return
    found = load_results(results)
    yield f"On {found.conditions}, in points, with 95 % intervals over clips ({REPLICATES:,} replicates)."
    yield ""
    yield "| clips | " + " | ".join(METRICS) + " |"
    yield "|---|" + "---:|" * len(METRICS)
    intervals = _intervals(run, baseline)
    for view in ("HQ", "LQ", "MQ", "WAS"):
        cells = [_cell(found, intervals, str(MetricName(view, metric))) for metric in METRICS]
        if any(cells):
            yield f"| {view} | " + " | ".join(cells) + " |"


def _intervals(run: Path, baseline: Path | None) -> Mapping[str, tuple[float, float]]:
    """By name of metric; nothing where the run has not kept its tubes."""
    if not (run / RunFile.PREDICTIONS).is_file():
        return {}
    result = evaluate(
        load_predictions(run / RunFile.PREDICTIONS),
        load_ground_truth(run / RunFile.GROUND_TRUTH),
        baseline=None if baseline is None else load_predictions(baseline / RunFile.PREDICTIONS),
        bootstrap=REPLICATES,
    )
    return result.protocols["half_open"].intervals if "half_open" in result.protocols else {}


def _cell(found: RunResults, intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    if name not in found.metrics:
        return ""
    low, high = intervals.get(name, (None, None))
    return f"{found.metrics[name]:.2f}" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")


def _certificate(path: Path) -> Iterator[str]:
    if path.is_file():
        yield f"## What is certain\n\n{sheet_markdown(certificate_sheet(load_certificate(path)))}"
