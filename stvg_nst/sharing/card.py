"""The model card of a shared adapter: what it was tuned on, how it scored, and what is certain of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stvg_nst.counting import counted
from stvg_nst.evaluation import evaluate, load_ground_truth, load_predictions
from stvg_nst.evaluation.bootstrap import LEVEL
from stvg_nst.report import BaselineError
from stvg_nst.report.certificate import Certificate, certificate_sheet
from stvg_nst.report.runs import ZERO_SHOT, points_against
from stvg_nst.report.sheet import sheet_markdown
from stvg_nst.results.metric_names import MAIN, METRICS, VIEWS, MetricName
from stvg_nst.results.results_file import RunResults, load_results
from stvg_nst.results.run_folder import RunFile

REPLICATES = 1000
BEGINNING = "---\nlibrary_name: stvg_nst\n"
"""Of every card, by which it is known again."""


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
        certificate: ``None`` where there is none.
    """

    name: str
    loading: str
    tuner: str
    options: Mapping[str, Any]
    base: str
    frozen: str
    config: Mapping[str, Any]
    certificate: Certificate | None = None


def model_card(shared: Shared, run: Path, baseline: Path | None) -> str:
    """The card, as Markdown with the hub's header.

    Args:
        run: folder of the fit; its results and tubes are told where they are there.
        baseline: folder of the zero-shot test, which has left its results and tubes: the WAS and its intervals are
            relative to it. Without it the WAS is the test's own, without intervals.

    Raises:
        BaselineError: the baseline was measured on other samples, in another way, or with other weights.
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
        *_certificate(shared.certificate),
        f"## Options of the method\n\n```json\n{json.dumps(dict(shared.options), indent=1)}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _origin(shared: Shared) -> Iterator[str]:
    data, trainer, seed = shared.config["data"], shared.config.get("trainer", {}), shared.config["seed_everything"]
    chosen = data.get("init_args", {})
    yield f"* frozen weights: {shared.base}; fingerprint `{shared.frozen}`, without which it does not load"
    yield f"* data: {data['class_path'].rpartition('.')[2]}, training clips: {chosen.get('training_clips') or 'all'}"
    limits = {name: trainer.get(f"max_{name}") for name in ("epochs", "steps")}
    lengths = [f"{name}: {limit}" for name, limit in limits.items() if limit is not None and limit > 0]  # -1 is none
    yield f"* {', '.join([f'seed: {seed}', *lengths])}"


def _scores(run: Path, baseline: Path | None) -> Iterator[str]:
    if not (run / RunFile.RESULTS).is_file():
        yield "It has not been tested."
        return
    found = load_results(run / RunFile.RESULTS)
    metrics = found.metrics if baseline is None else _metrics_against(found, baseline)
    intervals = _intervals(run, baseline)
    with_intervals = f", with {100 * LEVEL:g} % intervals over clips ({REPLICATES:,} replicates)" if intervals else ""
    yield f"On {found.conditions}, in points{with_intervals}."
    yield ""
    yield "| clips | " + " | ".join(METRICS) + " |"
    yield "|---|" + "---:|" * len(METRICS)
    for view in VIEWS:
        cells = [_cell(metrics, intervals, str(MetricName(view, metric))) for metric in METRICS]
        if any(cells):
            yield f"| {view} | " + " | ".join(cells) + " |"
    yield ""
    yield from _score_notes(found, metrics, baseline)


def _metrics_against(found: RunResults, baseline: Path) -> Mapping[str, float]:
    """The test's metrics, with the WAS relative to this baseline in place of the one that the test was given.

    Raises:
        BaselineError: the two do not compare.
    """
    base = load_results(baseline / RunFile.RESULTS)
    if base.method != ZERO_SHOT:
        raise BaselineError(f"{base.path} is of {base.method}; the baseline of a card is the test of {ZERO_SHOT}")
    if base.conditions != found.conditions or base.sample_keys != found.sample_keys:
        raise BaselineError(
            f"{base.path} was measured on {len(base.sample_keys)} samples of {base.conditions}, but {found.path} on "
            f"{len(found.sample_keys)} of {found.conditions}; give the zero-shot test of the same samples"
        )
    ways = [run.measurement for run in (found, base) if run.measurement is not None]
    if len(ways) == 2 and not ways[0].compares_with(ways[1]):
        raise BaselineError(
            f"{base.path} was measured in {base.measurement}, but {found.path} in {found.measurement}; test the "
            "baseline as the run was tested"
        )
    return points_against(found, base)


def _score_notes(found: RunResults, metrics: Mapping[str, float], baseline: Path | None) -> Iterator[str]:
    """What a reader must know to believe the scores."""
    if any(MetricName.parse(name).view == "WAS" for name in metrics):
        yield f"* The WAS, eq. (8), is relative to {_baseline_words(baseline)}."
    if found.random_weights:
        yield "* RANDOM WEIGHTS: the grounder was never trained, so that the scores say nothing about the method."
    if found.skipped:
        yield f"* {counted(found.skipped, 'sample')} left out, for bad videos or by a limit on batches."
    yield from (f"* {words}." for words in found.touched)


def _baseline_words(baseline: Path | None) -> str:
    if baseline is None:
        return "the baseline that the test was given (`--model.baseline`), whose tubes this card has not seen"
    base = load_results(baseline / RunFile.RESULTS)
    points = ", ".join(f"{view} {base.metrics[str(MetricName(view, MAIN))]:.2f}" for view in ("HQ", "LQ"))
    return f"the frozen grounder on the same samples ({MAIN}: {points}), and so are its intervals"


def _intervals(run: Path, baseline: Path | None) -> Mapping[str, tuple[float, float]]:
    """By name of metric; nothing where the run has not kept its tubes."""
    if not (run / RunFile.PREDICTIONS).is_file():
        return {}
    result = evaluate(
        load_predictions(run / RunFile.PREDICTIONS),
        load_ground_truth(run / RunFile.GROUND_TRUTH),
        baseline=None if baseline is None else load_predictions(baseline / RunFile.PREDICTIONS),
        protocols=["half_open"],
        bootstrap=REPLICATES,
    )
    return result.protocols["half_open"].intervals


def _cell(metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], name: str) -> str:
    if name not in metrics:
        return ""
    low, high = intervals.get(name, (None, None))
    return f"{metrics[name]:.2f}" + ("" if low is None else f" [{low:.1f}, {high:.1f}]")


def _certificate(certificate: Certificate | None) -> Iterator[str]:
    if certificate is not None:
        yield f"## What is certain\n\n{sheet_markdown(certificate_sheet(certificate))}"
