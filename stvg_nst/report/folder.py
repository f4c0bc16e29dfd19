"""The report on a folder of runs: one table per benchmark, and what was left out of it and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from stvg_nst.conditions import USUAL, Conditions
from stvg_nst.outputs import check_outputs
from stvg_nst.report.results import ResultsFileError, RunResults, load_results, measurement_notes
from stvg_nst.report.table import ZERO_SHOT, BaselineError, results_table, to_markdown
from stvg_nst.whole_files import write_whole

PIPE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class _Part:
    """One benchmark's tables, and what their reader must know."""

    tables: tuple[Table, ...]
    markdown: str
    notes: tuple[str, ...]


def report_folder(folder: Path, markdown: Path | None = None, by_degradation: str | None = None) -> int:
    """Reports every ``results.json`` below ``folder`` on the terminal, and as Markdown where asked to.

    Args:
        folder: of the runs.
        markdown: file to write, too.
        by_degradation: a metric to show by kind and severity of degradation; ``None`` for none.

    Returns:
        Exit status: 0 where at least one run is shown, 1 otherwise.
    """
    console = report_console()
    if not folder.is_dir():
        console.print(f"{folder} is not a folder; name the one that holds the runs", markup=False, soft_wrap=True)
        return 1
    paths = sorted(folder.rglob("results.json"))
    if not paths:
        console.print(f"no results.json below {folder}; evaluate a run first", markup=False, soft_wrap=True)
        return 1
    check_outputs({"--markdown": markdown}, inputs=paths)
    parts, left_out = _read(paths, by_degradation)
    left_out += _unfinished(folder)
    if markdown is not None:
        write_whole(markdown, _markdown(parts, left_out))
    _print(console, parts, left_out)
    return 0 if parts else 1


def _unfinished(folder: Path) -> Iterator[str]:
    """Runs below a folder that left a configuration and no results, with what they failed of where that is known."""
    configured = {path.parent for name in ("config.yaml", "point.yaml") for path in folder.rglob(name)}
    for run in sorted(configured):
        if not any(run.rglob("results.json")):
            records = [path for name in ("diverged.txt", "failure.txt") if (path := run / name).exists()]
            why = records[0].read_text(encoding="utf-8").strip() if records else "it is not finished"
            yield f"{run}: has no results.json: {why}"


def print_report(paths: Iterable[Path]) -> None:
    """Prints one table for all runs under the same conditions, and the files that were left out with the reason."""
    _print(report_console(), *_read(paths))


def _read(paths: Iterable[Path], by_degradation: str | None = None) -> tuple[list[_Part], list[str]]:
    benchmarks: defaultdict[Conditions, list[RunResults]] = defaultdict(list)
    left_out = []
    for path in paths:
        try:
            run = load_results(path)
        except ResultsFileError as error:
            left_out.append(str(error))
        else:
            benchmarks[run.conditions].append(run)
    parts = []
    for key in sorted(benchmarks):
        groups = _measured_alike(benchmarks[key])
        for way, runs in sorted(groups.items()):
            parts.append(_part(runs, by_degradation, apart=sorted(groups.keys() - {way})))
    return parts, left_out


def _measured_alike(runs: Sequence[RunResults]) -> dict[str, list[RunResults]]:
    """The runs of one benchmark by how they were measured; older files, which do not say, stand with the others."""
    said = {str(run.measurement) for run in runs if run.measurement is not None}
    assumed = said.pop() if len(said) == 1 else str(USUAL)
    groups: defaultdict[str, list[RunResults]] = defaultdict(list)
    for run in runs:
        groups[assumed if run.measurement is None else str(run.measurement)].append(run)
    return groups


def _part(runs: Sequence[RunResults], by_degradation: str | None, *, apart: Sequence[str]) -> _Part:
    """What is shown of runs that compare; ``apart`` are the other ways in which the same benchmark was measured."""
    runs = sorted(runs, key=lambda run: (run.method != ZERO_SHOT, run.method, run.seed, run.path))
    kinds = (None, *_sentence_types(runs))
    notes = list(_notes(runs))
    if apart:
        notes.append(f"what was measured in {' or in '.join(apart)} does not compare, and has a table of its own")
    baseline: str | None = ZERO_SHOT
    try:
        tables = tuple(results_table(runs, baseline, sentence_type=kind, name_usual=bool(apart)) for kind in kinds)
    except BaselineError as error:
        notes.append(f"without differences and WAS: {error}")
        baseline = None
        tables = tuple(results_table(runs, baseline, sentence_type=kind, name_usual=bool(apart)) for kind in kinds)
    markdown = "\n".join(to_markdown(runs, baseline, sentence_type=kind, name_usual=bool(apart)) for kind in kinds)
    if by_degradation is not None:
        from stvg_nst.report.degradations import degradation_report  # here, because only this table needs numpy

        found = degradation_report(runs, by_degradation)
        tables, markdown = (*tables, found.table()), f"{markdown}\n{found.markdown()}"
        notes.append(found.note)
    return _Part(tables, markdown, tuple(notes))


def _sentence_types(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """The sentence types of the runs; none where there is one, whose table would repeat the table of all sentences."""
    found = sorted({key.split("/")[1] for run in runs for key in run.metrics if key.count("/") == 2})
    return tuple(found) if len(found) > 1 else ()


def _notes(runs: Sequence[RunResults]) -> Iterator[str]:
    reference = runs[0]
    for run in runs:
        if run.skipped:
            yield f"{run.path}: {run.skipped} samples were left out, for bad videos or by a limit on batches"
        yield from (f"{run.path}: {words}" for words in run.touched)
        if run.sample_keys != reference.sample_keys:
            yield (
                f"{run.path}: {len(run.sample_keys)} samples, not the {len(reference.sample_keys)} of "
                f"{reference.path}; the two do not compare"
            )
    yield from measurement_notes(runs)


def report_console() -> Console:
    """The terminal, or a pipe as wide as a table needs."""
    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe or a file has no width, and rich's guess of 80 would fold the numbers
        console.width = PIPE_WIDTH
    return console


def _print(console: Console, parts: Sequence[_Part], left_out: Sequence[str]) -> None:
    for part in parts:
        for table in part.tables:
            console.print(table)
        for note in part.notes:
            console.print(f"note: {note}", markup=False, style="yellow", soft_wrap=True)
    if left_out:
        console.print(f"left out {len(left_out)}:", style="yellow")
        for reason in left_out:
            console.print(f"  {reason}", markup=False, soft_wrap=True)


def _markdown(parts: Sequence[_Part], left_out: Sequence[str]) -> str:
    sections = []
    for part in parts:
        sections.append(part.markdown)
        if part.notes:
            sections.append("".join(f"- note: {note}\n" for note in part.notes))
    if left_out:
        sections.append("Left out:\n\n" + "".join(f"- {reason}\n" for reason in left_out))
    return "\n".join(sections)
