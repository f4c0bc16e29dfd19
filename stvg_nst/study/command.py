"""`study`: runs what is missing in a grid, then reports on all results."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from stvg_nst.command_line.arguments import CommandParser, positive_int, seed, weight
from stvg_nst.configuration import ConfigurationError
from stvg_nst.machine.cores import threads_by_hand
from stvg_nst.machine.outputs import check_folder_is_writable
from stvg_nst.study.definition import Study, quick_folder, read_studies
from stvg_nst.study.fields import folder_name
from stvg_nst.study.hardware import refuse_other_results
from stvg_nst.study.launch import PROGRAM, Engine, Launcher, Outcome, alone_in_study, termination_as_interrupt
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.parts import commands_for, run_part
from stvg_nst.study.runs import StudyRun, planned_runs, refuse_changed, refuse_other_precisions
from stvg_nst.training.divergence import DIVERGED

INTERRUPTED = 130
CPUS_PER_RUN = 2  # of a cluster of Ray
Report = Callable[[Study, Path, Path, Sequence[str] | None], None]
"""Reports on a study, given the folders of all runs and of all reports, and patterns of the points that are shown."""


def study_command(arguments: Sequence[str], *, prog: str, report: Report, program: tuple[str, ...] = PROGRAM) -> int:
    """Runs a study's missing runs, and reports on each of its grounders.

    Args:
        prog: how the command is called, for its help.
        report: of one grounder; a StudyError keeps no other grounder from being reported.
        program: what takes the arguments of `fit` and `test`.

    Returns:
        Exit status: 0 where all that was asked for is done or has diverged, 1 where a run failed, 130 after Ctrl-C. Of
        a part alone 3 where it diverged.
    """
    options = _options(arguments, prog)
    parts = read_studies(options.study, quick=options.quick)
    folder: Path = quick_folder(options.runs) if options.quick else options.runs
    check_folder_is_writable(options.output or folder)
    console = Console(highlight=False, emoji=False)
    if options.emit or options.part is not None:
        with alone_in_study(folder, shared=True) as lock, termination_as_interrupt():
            return _in_parts(parts, folder, Launcher(1, lock, program, threads_by_hand()), options, console)
    if options.report_only:  # what it reads is whole, also while runs work there; the folder may be a read-only copy
        _report_all(parts, folder, options.output or folder, report, only=options.only)
        return 0
    with alone_in_study(folder) as lock:
        try:
            # Ray has handlers of signals of its own, which are replaced for as long as the runs work.
            with _engine(options, lock, program) as engine, termination_as_interrupt():
                status = 1 if _run(parts, folder, engine, options, console) else 0
        except KeyboardInterrupt:
            _say(console, "stopped; what was reached is kept, and the same command goes on from there")
            return INTERRUPTED
        _report_all(parts, folder, options.output or folder, report)
    return status


def _options(arguments: Sequence[str], prog: str) -> argparse.Namespace:
    parser = CommandParser(
        prog=prog,
        description="Run a study, each of its points under each of its seeds, and compare the points with the frozen "
        "grounder. Finished runs are not repeated, interrupted ones continue where they were, failed ones are tried "
        "again. A run that diverged counts as failed by its first attempt, until its folder is deleted.",
    )
    parser.add_argument("study", type=Path, help="the study's .yaml")
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--jobs", type=positive_int, default=1, help="runs at once, which share the cores (default: 1)")
    parser.add_argument("--quick", action="store_true", help="the study cut short, in the folder RUNS-quick")
    parser.add_argument("--seeds", type=seed, nargs="+", help="run these of the study's seeds only")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="POINT",
        help="run these of the study's points only, or with --report-only show these; * matches any",
    )
    parser.add_argument("--data", help="folder of the data set, instead of the overlays'")
    parser.add_argument(
        "--features",
        type=Path,
        help="folder of the cached features, instead of the overlays'; for several grounders, the folder that holds "
        "one for each, by the grounder's name",
    )
    parser.add_argument(
        "--hardware",
        type=Path,
        nargs="+",
        default=[],
        metavar="OVERLAY",
        help="of experiments/hardware/: how much this machine computes at once; not part of what is compared",
    )
    parser.add_argument("--output", type=Path, help="folder to write the report to (default: that of the runs)")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="processes here, or tasks of Ray (default: local)"
    )
    parser.add_argument(
        "--address", help="of a Ray cluster, or auto for this machine's; without it a new one starts here"
    )
    parser.add_argument("--cpus-per-run", type=positive_int, help=f"with Ray (default: {CPUS_PER_RUN})")
    parser.add_argument("--gpus-per-run", type=weight, help="with Ray; runs share a GPU by parts (default: 0)")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--report-only", action="store_true", help="run nothing, report on the results that there are")
    alone.add_argument(
        "--emit", action="store_true", help="run nothing, print one shell command for each run that is missing"
    )
    alone.add_argument(
        "--part", metavar="RUN", help="run only this run, named by its folder below RUNS; others may run too"
    )
    options = parser.parse_args(arguments)
    if options.engine == "ray" and (options.emit or options.part is not None):
        parser.error("the commands of --emit are for another scheduler: leave out --engine ray")
    if options.engine == "ray" and options.jobs > 1:
        parser.error("Ray runs as many at once as its cluster has room for: leave out --jobs, and say --cpus-per-run")
    if options.report_only and options.seeds is not None:
        parser.error("a report shows all seeds: leave out --seeds, or --report-only")
    given_to_ray = (options.address, options.cpus_per_run, options.gpus_per_run)
    if options.engine == "local" and any(value is not None for value in given_to_ray):
        parser.error("--address, --cpus-per-run and --gpus-per-run are Ray's: give --engine ray")
    if options.output is not None and (options.emit or options.part is not None):
        parser.error("--emit and --part write no report: leave out --output")
    return options


@contextmanager
def _engine(options: argparse.Namespace, lock: int, program: tuple[str, ...]) -> Iterator[Engine]:
    if options.engine == "local":
        yield Launcher(options.jobs, lock, program)
        return
    from stvg_nst.study.ray_engine import connected  # here, because Ray is an extra

    launcher = Launcher(1, None, program)
    cpus, gpus = options.cpus_per_run or CPUS_PER_RUN, options.gpus_per_run or 0.0
    with connected(launcher, address=options.address, cpus=cpus, gpus=gpus) as engine:
        yield engine


def _places(study: Study, options: argparse.Namespace) -> tuple[str, ...]:
    features = options.features
    if features is not None and study.grounder is not None:
        features = features / folder_name(study.grounder)
    refuse_other_results(study, options.hardware)
    named = (("--data.init_args.root", options.data), ("--data.init_args.features", features))
    places = (f"{name}={folder}" for name, folder in named if folder is not None)
    return (*(f"--config={overlay}" for overlay in options.hardware), *places)


def _selection(study: Study, options: argparse.Namespace) -> set[tuple[str, int]]:
    points = study.points if options.only is None else study.of_points(options.only).points
    study.refuse_unknown("seed", [seed for seed in options.seeds or () if seed not in study.seeds], study.seeds)
    unsearched = [point for point in points if study.row(point) in study.unchosen]
    if unsearched and options.only is not None and study.quick:
        unsearched = []  # a study that is cut short compares nothing: what is named runs as its overlays have it
    if unsearched and options.only is not None:
        raise StudyError(
            f"{study.path}: no search has chosen the settings of {'; '.join(unsearched)}, which would not be compared "
            "on equal terms; search first, or name others with --only"
        )
    return {(point, seed) for point in points if point not in unsearched for seed in options.seeds or study.seeds}


def _planned(
    parts: Sequence[Study], folder: Path, options: argparse.Namespace, console: Console
) -> tuple[list[StudyRun], list[StudyRun]]:
    """The baselines, and the runs that are selected.

    Raises:
        StudyError: nothing can be run, or what there is was made by another configuration.
    """
    baselines, selected = [], []
    for study in parts:
        baseline, runs = planned_runs(study, study.folder_in(folder), _places(study, options))
        refuse_changed((baseline, *runs))
        refuse_other_precisions(baseline, runs)
        selection = _selection(study, options)
        if study.grounder is not None and baseline.weights is not None and not baseline.weights.is_file():
            _say(console, f"left out {study.grounder}: its weights '{baseline.weights}' are not there")
            continue
        baselines.append(baseline)
        selected += [run for run in runs if (run.point, run.seed) in selection]
    named = {parts[0].row(point) for point, _ in selection}
    if unchosen := [point for point in parts[0].unchosen if point not in named]:
        _say(console, f"left out, for no search has chosen their settings: {'; '.join(unchosen)}")
    if not baselines:
        raise StudyError(f"{parts[0].path}: nothing can be run, for the weights of none of its grounders are there")
    selected.sort(key=lambda run: parts[0].seeds.index(run.seed))  # all grounders once before any seed twice
    return baselines, selected


def _left(runs: Sequence[StudyRun]) -> list[StudyRun]:
    return [run for run in runs if not (run.finished or run.diverged)]


def _run(
    parts: Sequence[Study], folder: Path, engine: Engine, options: argparse.Namespace, console: Console
) -> list[Outcome]:
    """Runs what is selected and not finished, and returns what failed."""
    baselines, selected = _planned(parts, folder, options, console)
    stages = [_left(baselines), _left(selected)]
    missing = sum(map(len, stages))
    _say(console, _announcement(parts[0], (*baselines, *selected), missing, engine.jobs))
    failures: list[Outcome] = []
    with _Board(console, parts[0], missing, engine.jobs) as board:
        for stage in stages:
            # What would be compared with a baseline that failed is not run: there is no use in it.
            lost = {outcome.run.grounder for outcome in failures}
            runnable = [run for run in stage if run.grounder not in lost]
            with closing(engine.outcomes(runnable, on_start=board.started)) as outcomes:
                for outcome in outcomes:
                    board.ended(outcome)
                    if outcome.failure is not None and not outcome.run.diverged:
                        failures.append(outcome)
    return failures


def _in_parts(
    parts: Sequence[Study], folder: Path, launcher: Launcher, options: argparse.Namespace, console: Console
) -> int:
    """Prints the commands of the missing runs, or does the work of one of these commands."""
    notes = Console(stderr=True, highlight=False, emoji=False)
    baselines, selected = _planned(parts, folder, options, notes)
    if options.emit:
        lines, said = commands_for((_left(baselines), _left(selected)), folder, _without_emit(options))
        for line in lines:
            _say(console, line)
        _say(notes, f"{parts[0].title}: {said}")
        return 0
    try:
        outcome = run_part(options.part, (baselines, selected), folder, launcher)
    except KeyboardInterrupt:
        _say(notes, "stopped; what was reached is kept, and the same command goes on from there")
        return INTERRUPTED
    if outcome.failure is None:
        _say(notes, f"finished: {outcome.run}")
        return 0
    _say(notes, f"{'diverged' if outcome.run.diverged else 'failed'}: {outcome.run}: {outcome.failure}")
    return DIVERGED if outcome.run.diverged else 1


def _without_emit(options: argparse.Namespace) -> list[str]:
    """The command that was given, for a part to be named behind it."""
    given = {
        "--runs": (options.runs,),
        "--data": (options.data,),
        "--features": (options.features,),
        "--hardware": options.hardware or (None,),
        "--seeds": options.seeds or (None,),
        "--only": options.only or (None,),
    }
    words = [word for name, values in given.items() if values[0] is not None for word in (name, *values)]
    return [*PROGRAM, "study", str(options.study), *["--quick"] * options.quick, *map(str, words)]


def _report_all(
    parts: Sequence[Study], folder: Path, output: Path, report: Report, *, only: Sequence[str] | None = None
) -> None:
    """Reports on each grounder, whose runs and report lie in a folder of their own where there are several.

    Raises:
        StudyError: of some there is nothing to report; the others are reported before. Or none has a folder.
    """
    lacking = []
    begun = [study for study in parts if study.grounder is None or study.folder_in(folder).is_dir()]
    if not begun:
        names = ", ".join(str(study.grounder) for study in parts)
        raise StudyError(f"there is nothing to report: '{folder}' has no folder of a grounder ({names})")
    for study in begun:
        try:
            report(study, folder, output, only)
        except ConfigurationError as error:
            lacking.append(str(error))
    if lacking:
        raise StudyError("; ".join(lacking))


def _announcement(study: Study, runs: Sequence[StudyRun], missing: int, jobs: int) -> str:
    total, diverged = len(runs), sum(run.diverged for run in runs)
    finished = f"{total - missing - diverged} of {total} runs finished" if missing < total else f"{total} runs"
    if diverged:
        finished += f", {diverged} diverged (not tried again; delete their folders to)"
    if not missing:
        return f"{study.title}: {finished}"
    minutes = missing * study.minutes_per_run
    return (
        f"{study.title}: {finished}, {missing} to go, {jobs} at once; about {_duration(60 * minutes)} on 2 CPU cores "
        f"({study.minutes_per_run:g} minutes a run)"
    )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """
    >>> _duration(50), _duration(1000), _duration(9000)
    ('1 min', '17 min', '2 h 30 min')
    """
    hours, minutes = divmod(max(1, round(seconds / 60)), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class _Board:
    """Shows how far the study is: a line for each run that ends, and a bar with the time that is left.

    The time is reckoned from the runs that have ended, and from the study's own estimate before any has.
    """

    def __init__(self, console: Console, study: Study, total: int, jobs: int) -> None:
        self._console, self._total, self._jobs = console, total, jobs
        self._seconds_per_run = 60 * study.minutes_per_run
        self._durations: list[float] = []
        self._working: list[str] = []
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Remaining(),
            TextColumn("{task.description}", markup=False),  # a point may have brackets in its name
        )
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=total)

    def __enter__(self) -> _Board:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def started(self, run: StudyRun) -> None:
        self._working.append(str(run))
        self._update()

    def ended(self, outcome: Outcome) -> None:
        self._working.remove(str(outcome.run))
        if outcome.failure is None:
            self._durations.append(outcome.seconds)
            self._seconds_per_run = sum(self._durations) / len(self._durations)
            _say(self._console, f"finished: {outcome.run} ({_duration(outcome.seconds)})")
        else:
            how = "diverged" if outcome.run.diverged else "failed"
            self._console.print(
                f"{how}: {outcome.run}: {outcome.run.why_failed}", markup=False, style="red", soft_wrap=True
            )
        self._progress.advance(self._task)
        self._update()

    def _update(self) -> None:
        left = self._total - int(self._progress.tasks[0].completed)
        end = time.monotonic() + left * self._seconds_per_run / self._jobs
        self._progress.update(self._task, description=", ".join(self._working), end=end)


class _Remaining(ProgressColumn):
    """The expected time until all is done."""

    def render(self, task: Task) -> Text:
        seconds = task.fields["end"] - time.monotonic() if "end" in task.fields else 0.0
        return Text(f"about {_duration(seconds)} left", style="progress.remaining")
