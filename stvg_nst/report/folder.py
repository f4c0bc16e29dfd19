"""The report on folders of runs: one table per benchmark, and what was left out of it and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stvg_nst.counting import counted
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.report.runs import ZERO_SHOT, BaselineError, measurement_notes, runs_section
from stvg_nst.report.sheet import Sheet, print_sheet, sheet_console, sheet_markdown
from stvg_nst.results.conditions import USUAL, Conditions
from stvg_nst.results.metric_names import sentence_types_of
from stvg_nst.results.results_file import ResultsFileError, RunResults, load_results
from stvg_nst.results.run_folder import RunFile


def report_folders(
    folders: Sequence[Path],
    markdown: Path | None = None,
    by_degradation: str | None = None,
    html: Path | None = None,
    *,
    by_sentence: bool = False,
) -> int:
    """Reports every ``results.json`` below some folders on the terminal, and as Markdown and HTML where asked to.

    Args:
        folders: of runs; a run below two of them counts once.
        markdown, html: files to write, too.
        by_degradation: a metric to show by kind and severity of degradation; ``None`` for none.
        by_sentence: also show a table for each type of sentence, as the files always have.

    Returns:
        Exit status: 0 where at least one run is shown, 1 otherwise.
    """
    console = sheet_console()
    for folder in folders:
        if not folder.is_dir():
            console.print(f"{folder} is not a folder; name the one that holds the runs", markup=False, soft_wrap=True)
            return 1
    paths = {path.resolve(): path for folder in folders for path in sorted(folder.rglob(RunFile.RESULTS))}
    unfinished = tuple(dict.fromkeys(reason for folder in folders for reason in _unfinished(folder)))
    if not paths:
        names = ", ".join(map(str, folders))
        for line in (f"no results.json below {names}; test a run first", *unfinished):
            console.print(line, markup=False, soft_wrap=True)
        return 1
    check_outputs({"--markdown": markdown, "--html": html}, inputs=paths)
    benchmarks, left_out = _read(paths.values())
    left_out += unfinished
    sheets = [_sheet(benchmark, by_degradation) for benchmark in benchmarks]
    if markdown is not None:
        parts = [sheet_markdown(sheet) for sheet in sheets]
        if left_out:
            parts.append("Left out:\n\n" + "".join(f"* {reason}\n" for reason in left_out))
        write_whole(markdown, "\n".join(parts))
    if html is not None:
        from stvg_nst.report.page import report_page  # here, because only the page needs matplotlib

        shown = [(sheet, benchmark.runs) for sheet, benchmark in zip(sheets, benchmarks, strict=True)]
        write_whole(html, report_page(folders, shown, left_out))
    if not by_sentence:
        sheets = [_sheet(benchmark, by_degradation, by_sentence=False) for benchmark in benchmarks]
    _print(sheets, left_out)
    return 0 if sheets else 1


def _unfinished(folder: Path) -> Iterator[str]:
    """Runs below a folder that left a configuration and no results, with the cause of the failure where it is known."""
    configured = {path.parent for name in (RunFile.CONFIG, RunFile.POINT) for path in folder.rglob(name)}
    for run in sorted(configured):
        if not any(run.rglob(RunFile.RESULTS)):
            records = [path for name in (RunFile.DIVERGENCE, RunFile.FAILURE) if (path := run / name).exists()]
            state = "it is fitted, and not tested" if (run / RunFile.ADAPTER).exists() else "it is not finished"
            why = records[0].read_text(encoding="utf-8").strip() if records else state
            yield f"{run}: has no results.json: {why}"


def print_report(paths: Iterable[Path]) -> None:
    """Prints one table for all runs under the same conditions, and the files that were left out with the reason."""
    benchmarks, left_out = _read(paths)
    _print([_sheet(benchmark, by_sentence=False) for benchmark in benchmarks], left_out)


def report_markdown(paths: Iterable[Path], *, by_sentence: bool = True) -> str:
    """As :func:`print_report`, as Markdown, with a table for each type of sentence unless told otherwise."""
    benchmarks, _ = _read(paths)
    return "\n".join(sheet_markdown(_sheet(benchmark, by_sentence=by_sentence)) for benchmark in benchmarks)


def _read(paths: Iterable[Path]) -> tuple[list[_Benchmark], list[str]]:
    """The benchmarks that runs were measured on, and what was left out."""
    benchmarks: defaultdict[Conditions, list[RunResults]] = defaultdict(list)
    left_out = []
    for path in paths:
        try:
            run = load_results(path)
        except ResultsFileError as error:
            left_out.append(str(error))
        else:
            benchmarks[run.conditions].append(run)
    return [part for key in sorted(benchmarks) for part in _measured_alike(benchmarks[key])], left_out


@dataclass(frozen=True, slots=True)
class _Benchmark:
    """Runs that compare, the baseline first; ``apart`` are the other ways in which the same benchmark was measured."""

    runs: Sequence[RunResults]
    apart: Sequence[str]


def _measured_alike(runs: Sequence[RunResults]) -> Iterator[_Benchmark]:
    """The runs of one benchmark by how they were measured; older files, which do not say, count with the others."""
    said = {str(run.measurement) for run in runs if run.measurement is not None}
    assumed = said.pop() if len(said) == 1 else str(USUAL)
    groups: defaultdict[str, list[RunResults]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.method != ZERO_SHOT, run.method, run.seed, run.path)):
        groups[assumed if run.measurement is None else str(run.measurement)].append(run)
    for way in sorted(groups):
        yield _Benchmark(groups[way], sorted(groups.keys() - {way}))


def _sheet(benchmark: _Benchmark, by_degradation: str | None = None, *, by_sentence: bool = True) -> Sheet:
    """One benchmark's tables, and what their reader must know."""
    runs, apart = benchmark.runs, benchmark.apart
    kinds = (None, *(_sentence_types(runs) if by_sentence else ()))
    notes = list(_notes(runs))
    if apart:
        notes.append(f"what was measured in {' or in '.join(apart)} does not compare, and has a table of its own")
    try:
        sections = [runs_section(runs, sentence_type=kind, name_usual=bool(apart)) for kind in kinds]
    except BaselineError as error:
        notes.append(f"without differences and WAS: {error}")
        sections = [runs_section(runs, None, sentence_type=kind, name_usual=bool(apart)) for kind in kinds]
    if by_degradation is not None:
        # Here, because only these tables need numpy.
        from stvg_nst.report.severities import separation_section, severity_section

        section, note = severity_section(runs, by_degradation)
        sections.append(section)
        notes.append(note)
        if (verdicts := separation_section(runs)) is not None:
            sections.append(verdicts)
    return Sheet("", tuple(sections), tuple(notes))


def _sentence_types(runs: Sequence[RunResults]) -> tuple[str, ...]:
    """The sentence types of the runs; none where there is one, whose table would repeat the table of all sentences."""
    found = sorted(sentence_types_of(key for run in runs for key in run.metrics))
    return tuple(found) if len(found) > 1 else ()


def _notes(runs: Sequence[RunResults]) -> Iterator[str]:
    reference = runs[0]
    for run in runs:
        if run.skipped:
            yield f"{run.path}: {counted(run.skipped, 'sample')} left out, for bad videos or by a limit on batches"
        yield from (f"{run.path}: {words}" for words in run.touched)
        if run.sample_keys != reference.sample_keys:
            yield (
                f"{run.path}: {len(run.sample_keys)} samples, not the {len(reference.sample_keys)} of "
                f"{reference.path}; the two do not compare"
            )
    yield from measurement_notes(runs)


def _print(sheets: Sequence[Sheet], left_out: Sequence[str]) -> None:
    console = sheet_console()
    for sheet in sheets:
        print_sheet(sheet, console)
    if left_out:
        console.print(f"left out {len(left_out)}:", style="yellow")
        for reason in left_out:
            console.print(f"  {reason}", markup=False, soft_wrap=True)
