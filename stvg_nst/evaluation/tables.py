"""An evaluation for human readers: the same sections on the terminal and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stvg_nst.evaluation.evaluator import LEVEL, Evaluation, Interval, ProtocolResult
from stvg_nst.evaluation.tubes import CLEAN, SENTENCE_TYPES
from stvg_nst.evaluation.views import kinds_of
from stvg_nst.metric_names import MEAN_KIND, METRICS, RELATIVE, SEVERITY, WORST_KIND

PIPE_WIDTH = 120
_HEADER = ("", *METRICS)
_SHOWN_BY_DEGRADATION = "m_vIoU"  # the JSON file has the others
_QUALITIES = (CLEAN, "LQ", "MQ", "WAS")
_LABELS = {
    MEAN_KIND: "mean of kinds",
    WORST_KIND: "worst kind",
    RELATIVE: "LQ / HQ, %",
}


@dataclass(frozen=True, slots=True)
class Section:
    """One table: a row is a label and then one cell for each other name of the header."""

    title: str
    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...] = _HEADER


def print_evaluation(evaluation: Evaluation) -> None:
    """Prints the sections and notes on the terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe or a file has no width, and rich's guess of 80 would fold the numbers
        console.width = PIPE_WIDTH
    console.print(Text(_headline(evaluation), style="bold"))
    for section in sections(evaluation):
        table = Table(title=Text(section.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
        table.min_width = len(section.title)  # or rich folds it
        for index, name in enumerate(section.header):
            table.add_column(Text(name), justify="right" if index else "left", no_wrap=True)
        for row in section.rows:
            table.add_row(*map(Text, row))
        console.print(table)
    for note in notes(evaluation):
        console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)


def to_markdown(evaluation: Evaluation) -> str:
    """The same as ``print_evaluation`` as a Markdown document."""
    parts = [f"## {_escaped(_headline(evaluation))}", ""]
    for section in sections(evaluation):
        lines = [section.header, ("---", *["---:"] * (len(section.header) - 1)), *section.rows]
        parts += [f"### {section.title}", "", *(f"| {' | '.join(map(_escaped, line))} |" for line in lines), ""]
    parts += [f"* {_escaped(note)}" for note in notes(evaluation)]
    return "\n".join(parts).rstrip("\n") + "\n"


def sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """Protocols side by side, then the first of them: every view, differences to the baseline, sentence types."""
    main, result = next(iter(evaluation.protocols.items()))
    views = {view: _label(view) for view in _views(result.metrics)}
    found = [_by_protocol(evaluation), _values(f"every view, {main}", result, views)]
    if kinds_of(result.metrics):
        found.append(_by_degradation(f"{_SHOWN_BY_DEGRADATION} by kind and severity, {main}", result.metrics))
    if evaluation.bootstrap and evaluation.baseline is not None:
        rows = (
            _row(label, view, result.differences, result.difference_intervals, {}, signed=True)
            for view, label in views.items()
            if view != "WAS"
        )
        found.append(Section(f"differences to {evaluation.baseline}, paired over items, {main}", tuple(rows)))
    types = [kind for kind in SENTENCE_TYPES if any(key.split("/")[1] == kind for key in result.metrics)]
    if len(types) > 1:
        by_type = {f"{view}/{kind}": f"{view}, {kind}" for view in _QUALITIES if view in views for kind in types}
        found.append(_values(f"by sentence type, {main}", result, by_type))
    return tuple(found)


def notes(evaluation: Evaluation) -> Iterator[str]:
    """What a reader must know to believe the numbers."""
    for protocol, reason in evaluation.left_out.items():
        yield f"without protocol {protocol}: {reason}"
    for method, coverage in (
        (evaluation.method, evaluation.coverage),
        (evaluation.baseline, evaluation.baseline_coverage),
    ):
        if coverage is None:
            continue
        if coverage.missing:
            yield f"{method}: {coverage.missing} of {coverage.samples} samples have no prediction and score 0"
        if coverage.unknown:
            yield f"{method}: {coverage.unknown} predictions are of samples that were not asked for, and were ignored"
        if coverage.frames_without_box:
            yield f"{method}: {coverage.frames_without_box} predicted frames have no box and overlap nothing"
    if evaluation.bootstrap:
        yield (
            f"[low, high] are {100 * LEVEL:g} % percentile intervals of {evaluation.bootstrap} bootstrap replicates "
            f"over {evaluation.num_items} items, seed {evaluation.seed}"
        )


def _headline(evaluation: Evaluation) -> str:
    against = "" if evaluation.baseline is None else f", against {evaluation.baseline}"
    return (
        f"{evaluation.method} on {evaluation.dataset} {evaluation.split}: {evaluation.coverage.samples} samples of "
        f"{evaluation.num_items} items{against}"
    )


def _by_protocol(evaluation: Evaluation) -> Section:
    rows = (
        _row(f"{protocol}, {view}", view, result.metrics, result.intervals, result.differences)
        for protocol, result in evaluation.protocols.items()
        for view in _QUALITIES
        if f"{view}/{METRICS[0]}" in result.metrics
    )
    return Section("by protocol", tuple(rows))


def _values(title: str, result: ProtocolResult, labels: Mapping[str, str]) -> Section:
    rows = (_row(label, view, result.metrics, result.intervals, result.differences) for view, label in labels.items())
    return Section(title, tuple(rows))


def _by_degradation(title: str, metrics: Mapping[str, float]) -> Section:
    views = dict.fromkeys(name.split("/")[0] for name in metrics)
    severities = [view.removeprefix(SEVERITY) for view in views if view.startswith(SEVERITY)]

    def row(label: str, views: Iterable[str]) -> tuple[str, ...]:
        values = [metrics.get(f"{view}/{_SHOWN_BY_DEGRADATION}") for view in views]
        return label, *("" if value is None else _number(value, signed=False) for value in values)

    rows = [row(kind, [*(f"{kind}:{severity}" for severity in severities), kind]) for kind in kinds_of(metrics)]
    rows.append(row("all kinds", [*(f"{SEVERITY}{severity}" for severity in severities), "LQ"]))
    return Section(title, tuple(rows), ("severity", *severities, "all"))


def _views(metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Views over all sentences, but for the cells of one kind and one severity, which have a table of their own."""
    found = dict.fromkeys(name.split("/")[0] for name in metrics)
    severities = [view for view in found if view.startswith(SEVERITY)]
    order = (CLEAN, "LQ", "MQ", *kinds_of(metrics), *severities, MEAN_KIND, WORST_KIND, RELATIVE, "WAS")
    return tuple(view for view in order if view in found)


def _label(view: str) -> str:
    return _LABELS.get(view, view.replace(SEVERITY, "severity "))


def _row(
    label: str,
    view: str,
    values: Mapping[str, float],
    intervals: Mapping[str, Interval],
    changes: Mapping[str, float],
    *,
    signed: bool = False,
) -> tuple[str, ...]:
    """Cells like ``53.04 (-0.50)``, or ``53.04 [52.1, 54.0]`` where there are intervals; "" where there is nothing."""
    signed = signed or view.startswith("WAS")
    cells = []
    for key in (f"{view}/{metric}" for metric in METRICS):
        if key not in values:
            cells.append("")
        elif math.isnan(values[key]):
            cells.append("-")
        elif key in intervals:
            low, high = (_number(edge, signed, digits=1) for edge in intervals[key])
            cells.append(f"{_number(values[key], signed)} [{low}, {high}]")
        else:
            change = f" ({_number(changes[key], signed=True)})" if key in changes else ""
            cells.append(_number(values[key], signed) + change)
    return (label, *cells)


def _number(points: float, signed: bool, *, digits: int = 2) -> str:
    # Adding zero turns -0.00 into +0.00.
    return f"{round(points, digits) + 0.0:{'+' if signed else ''}.{digits}f}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
