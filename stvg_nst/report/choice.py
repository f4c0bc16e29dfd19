"""`choose`: the best level of each point by the validation split, written where other studies read it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from stvg_nst.command_line.arguments import CommandParser, seed
from stvg_nst.configuration import Config, dump_yaml, read_yaml
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.report.findings import CHANGE, GAIN, SCORE, Findings, Method, Quantity, over_seeds
from stvg_nst.report.numbers import signed
from stvg_nst.report.rows import numbers
from stvg_nst.report.sheet import sheet_console
from stvg_nst.report.study import read_study
from stvg_nst.study import Study, StudyError, read_studies
from stvg_nst.study.definition import quick_folder

_WRITTEN = "# What `python -m stvg_nst choose"


@dataclass(frozen=True, slots=True)
class Choice:
    """What was tried for one point, and what came of it.

    Args:
        tried: by level, in the study's order; a level of which a run diverged cannot be chosen.
        level: of the highest mean, the first among equals.
        ordered: whether the levels follow one another, as sizes do and kinds do not.
    """

    row: str
    tried: Mapping[str, Method]
    level: str
    ordered: bool

    @property
    def at_the_edge(self) -> bool:
        """Whether the best level is the first or the last of a scale: then a wider grid may hold a better one."""
        levels = [*self.tried]
        return self.ordered and self.level in (levels[0], levels[-1])


def choose_command(arguments: Sequence[str], *, prog: str) -> int:
    """Writes the settings of each point's best level as YAML, and all that was tried as CSV."""
    parser = CommandParser(
        prog=prog,
        description="Choose for each point of a finished study of levels the one with the highest mean WAS (m_vIoU) on "
        "the validation split, and write its settings for other studies to read as their `chosen`.",
    )
    parser.add_argument("study", type=Path, help="the study's .yaml")
    parser.add_argument("--runs", type=Path, required=True, help="folder of its runs")
    parser.add_argument("--output", type=Path, required=True, help="the .yaml to write")
    parser.add_argument("--table", type=Path, help="the .csv to write all that was tried to (default: beside OUTPUT)")
    parser.add_argument(
        "--seeds", type=seed, nargs="+", help="choose by these of the study's seeds only; OUTPUT counts them"
    )
    parser.add_argument("--quick", action="store_true", help="choose from the study cut short")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="POINT",
        help="choose for these of the study's points only; * matches any; what OUTPUT says of the others is kept",
    )
    options = parser.parse_args(arguments)
    if options.output.suffix != ".yaml":
        parser.error(f"--output names a .yaml, got '{options.output}'")
    files = options.output, options.table or options.output.with_suffix(".csv")
    if existing := [path for path in files if path.exists() and not options.overwrite]:
        raise StudyError(f"'{existing[0]}' exists already; choose another name, or give --overwrite")
    check_outputs({"--output": files[0], "--table": files[1]}, inputs=[options.study])
    _refuse_other_settings(files[0])
    (study, *others) = read_studies(options.study, quick=options.quick)
    if others:
        raise StudyError(f"{study.path}: settings are chosen on one grounder, but the study has {1 + len(others)}")
    if options.seeds is not None:
        study = _under_seeds(study, options.seeds)
    findings = read_study(study, quick_folder(options.runs) if options.quick else options.runs)
    rows = _selected(study, options.only)
    choices = choose(findings, rows)
    kept = _kept(files, study, rows)
    texts = choices_yaml(study, choices, kept[0], files[1]), choices_csv(choices, kept[1])
    for path, text in zip(files, texts, strict=True):
        write_whole(path, text)
    console = sheet_console()
    console.print(choices_text(choices), markup=False, soft_wrap=True, end="")
    if kept[0]:
        console.print(f"kept as they were chosen before: {'; '.join(kept[0])}", markup=False, soft_wrap=True)
    console.print(f"written: {', '.join(map(str, files))}", markup=False, soft_wrap=True)
    return 0


def choose(findings: Findings, rows: Sequence[str]) -> tuple[Choice, ...]:
    """The level of the highest mean WAS, the first among equals, for each of these points.

    Raises:
        StudyError: the study has no levels, or some that are no mere settings, was not measured on the validation
            split, or is unfinished. A choice among fewer levels would give its point a smaller grid than the others'.
            A run that failed for lack of memory has not diverged, and leaves the study unfinished. Or every level of a
            point diverged.
    """
    study, cells = findings.study, findings.cells
    if not study.levels:
        raise StudyError(f"{study.path}: has no 'levels' to choose from")
    if overlaid := [level for level, entry in study.levels.items() if "overlays" in entry]:
        raise StudyError(
            f"{study.path}: what is chosen is written as settings, but level '{overlaid[0]}' has overlays; say it by "
            "dotted names"
        )
    split = findings.baselines[0].results.split
    if split not in ("val", "val_search"):
        raise StudyError(
            f"choices are made on the split 'val' or its half 'search', but the study measured '{split}'; set "
            "evaluation_split and validation_half"
        )
    grids = {row: {level: cells[row, level] for level in study.levels} for row in rows}
    points = [point for tried in grids.values() for point in tried.values()]
    if unfinished := [point for point in points if not point.complete and not point.diverged]:
        names = "; ".join(
            f"{point.point}{' (the last attempt failed)' if point.failed else ''}" for point in unfinished
        )
        raise StudyError(
            f"runs are missing of {names}; run the study to its end first, or choose for others with --only, or by "
            "fewer seeds with --seeds"
        )
    choices = []
    for row, tried in grids.items():
        means = {level: _score(method) for level, method in tried.items() if not method.diverged}
        if not means:
            raise StudyError(f"a run of every level of {row} diverged; widen its grid towards what it survives")
        choices.append(Choice(row, tried, max(means, key=means.__getitem__), study.ordered_levels))
    return tuple(choices)


def _score(method: Method) -> float:
    spread = over_seeds(method, SCORE.number())
    assert spread is not None, "a finished method has runs"
    return spread.mean


def _under_seeds(study: Study, seeds: Sequence[int]) -> Study:
    if strangers := [seed for seed in seeds if seed not in study.seeds]:
        raise StudyError(
            f"{study.path}: the study has no seed {strangers[0]}; it has {', '.join(map(str, study.seeds))}"
        )
    return replace(study, seeds=tuple(dict.fromkeys(seeds)))


def _selected(study: Study, patterns: Sequence[str] | None) -> tuple[str, ...]:
    rows = study.rows
    unknown = [pattern for pattern in patterns or () if not any(fnmatchcase(row, pattern) for row in rows)]
    study.refuse_unknown("point", unknown, rows)
    return tuple(row for row in rows if patterns is None or any(fnmatchcase(row, pattern) for pattern in patterns))


def _refuse_other_settings(path: Path) -> None:
    """Keeps ``--overwrite`` from an overlay, perhaps one that the study itself is made of.

    Raises:
        StudyError: the file was not written by this command.
    """
    if path.exists() and not path.read_text(encoding="utf-8-sig", errors="replace").startswith(_WRITTEN):
        raise StudyError(
            f"'{path}' is no file of choices: it does not begin with '{_WRITTEN}'; write to another file, or delete it"
        )


def _kept(files: Sequence[Path], study: Study, chosen: Sequence[str]) -> tuple[dict[str, Config], list[list[str]]]:
    """What was chosen before for the study's other points: their settings, and their rows of the CSV."""
    settings, table = files
    before: Config = (settings.exists() and read_yaml(settings)) or {}
    kept = {row: before[row] for row in study.rows if row in before and row not in chosen}
    lines = list(csv.reader(io.StringIO(table.read_text(encoding="utf-8-sig")))) if table.exists() else []
    return kept, [line for line in lines if line[0] in kept]


def choices_yaml(study: Study, choices: Sequence[Choice], kept: Mapping[str, Config], table: Path) -> str:
    """The settings of all points in the study's order; ``kept`` are those of points that were chosen for before."""
    header = (
        f"{_WRITTEN} {study.path}` chose on the validation split, by the highest mean WAS of\n"
        f"# m_vIoU. {table} holds all that were tried.\n"
        f"# Among {len(study.levels)}, by seeds {', '.join(map(str, study.seeds))}: "
        f"{'; '.join(choice.row for choice in choices)}.\n"
    )
    if kept:
        header += f"# Kept as they were chosen before (the table counts their seeds): {'; '.join(kept)}.\n"
    if study.quick:
        header += f"# {study.title}\n"
    chosen: dict[str, Config] = {choice.row: dict(study.levels[choice.level]) for choice in choices} | dict(kept)
    return header + dump_yaml({row: chosen[row] for row in study.rows if row in chosen})


def choices_csv(choices: Sequence[Choice], kept: Sequence[Sequence[str]]) -> str:
    """One row for each configuration that was tried, and behind these the rows that are ``kept`` from before."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [name for quantity in _KEPT for name in _numbers(quantity, None)]
    writer.writerow(("point", "level", "seeds", *names, "chosen"))
    for choice in choices:
        for level, method in choice.tried.items():
            found = [number for quantity in _KEPT for number in _numbers(quantity, method).values()]
            chosen = "diverged" if method.diverged else level == choice.level
            writer.writerow((choice.row, level, len(method.finished_runs), *found, chosen))
    writer.writerows(kept)
    return text.getvalue()


_KEPT = (SCORE, GAIN, CHANGE)


def _numbers(quantity: Quantity, method: Method | None) -> dict[str, object]:
    spread = None if method is None else over_seeds(method, quantity.number())
    return numbers(quantity.name.lower().replace(" ", "_"), spread, "_")


def choices_text(choices: Sequence[Choice]) -> str:
    """A line for each point: what was tried, and which won."""
    lines = []
    for choice in choices:
        tried = ", ".join(
            f"{level} {'diverged' if method.diverged else signed(_score(method))}"
            for level, method in choice.tried.items()
        )
        edge = ", the edge of the grid" if choice.at_the_edge else ""
        lines.append(f"{choice.row}: {choice.level}{edge} (of {len(choice.tried)}; WAS {tried})\n")
    return "".join(lines)
