"""What a study found: each point's difference to the baseline, over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from stvg_nst.adaptation import adaptation_scores
from stvg_nst.report import RunResults, load_results
from stvg_nst.report.results import measurement_notes
from stvg_nst.study.definition import Study
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.runs import StudyRun, planned_runs, refuse_changed

METRICS = ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")
QUANTITIES = ("LQ gain", "HQ change", "WAS")
"""LQ gain and HQ change are differences to the baseline; the WAS, eq. (8) with lambda_hq = 1, is their sum."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One number over the seeds of a point, in percent points; never empty."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; ``None`` for one value, which has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class PointSummary:
    """One point of a study.

    Args:
        num_seeds: how many runs are finished; the study is to have ``num_expected``.
        trainable_parameters: ``None`` where none is finished.
        failed: whether some run diverged, or the last attempt at it failed.
        diverged: whether some run diverged, which is a finding about the point, and no accident of the machine.
        spreads: by quantity and metric; empty where no run is finished.
    """

    name: str
    num_seeds: int
    num_expected: int
    trainable_parameters: int | None
    failed: bool
    diverged: bool
    spreads: Mapping[tuple[str, str], Spread]

    @property
    def complete(self) -> bool:
        return self.num_seeds == self.num_expected


@dataclass(frozen=True, slots=True)
class StudySummary:
    """All that a report shows.

    Args:
        baselines: of each test, in order; at least one.
        notes: what its reader must know, first of all what is missing.
        levels: in a study of levels, their names in order; the point of a row and a level is ``cells[row, level]``.
        ordered_levels: the levels follow one another, as sizes do and kinds do not.
    """

    title: str
    baselines: tuple[RunResults, ...]
    points: tuple[PointSummary, ...]
    notes: tuple[str, ...]
    levels: tuple[str, ...] = ()
    cells: Mapping[tuple[str, str], PointSummary] = field(default_factory=dict)
    ordered_levels: bool = True

    @property
    def complete(self) -> bool:
        return all(point.complete for point in self.points)


def summarise(study: Study, folder: Path) -> StudySummary:
    """Reads the results that stand in the folder of a study; one that is not finished is shown as far as it is.

    Raises:
        StudyError: the baseline is not finished, or some results are of another configuration, of other samples or
            under other conditions than the study's.
        ResultsFileError: a ``results.json`` is damaged.
    """
    baseline_run, runs = planned_runs(study, folder)
    refuse_changed((baseline_run, *runs))
    if not baseline_run.finished:
        reason = f"; its last attempt failed: {failure_of(baseline_run)}" if baseline_run.failed else ""
        lacking = next(test.results for test in baseline_run.tests if not test.results.exists())
        raise StudyError(f"there is nothing to compare with: '{lacking}' is not there yet{reason}")
    baselines = _results(baseline_run)
    refuse_unlike_tests(baselines)
    finished = [(run, _results(run)) for run in runs if run.finished]
    for run, results in finished:
        for measured, baseline in zip(results, baselines, strict=True):
            refuse_incomparable(run, measured, baseline)
    points = {
        name: _point(
            name, [run for run in runs if run.point == name], [r for run, r in finished if run.point == name], baselines
        )
        for name in study.points
    }
    every = (*baselines, *(measured for _, results in finished for measured in results))
    refuse_unlike_measured(every)
    return StudySummary(
        title=study.heading,
        baselines=baselines,
        points=tuple(points.values()),
        notes=(*_notes(runs, every), *filter(None, [study.unchosen_words])),
        levels=tuple(dict.fromkeys(level for _, level in study.cells.values())),
        cells={cell: points[name] for name, cell in study.cells.items()},
        ordered_levels=study.ordered_levels,
    )


def _results(run: StudyRun) -> tuple[RunResults, ...]:
    return tuple(load_results(test.results) for test in run.tests)


def failure_of(run: StudyRun) -> str:
    """Why the last attempt at a run failed, and where to read more."""
    record = run.divergence if run.diverged else run.failure
    return f"{record.read_text(encoding='utf-8').strip()} ({run.log})"


def refuse_unlike_tests(baselines: Sequence[RunResults]) -> None:
    """Keeps what is not another draw of the same benchmark from being averaged, and one draw from counting twice.

    Args:
        baselines: of one grounder under each of the tests.

    Raises:
        StudyError: two differ in more than the draw, or do not differ.
    """
    for before, other in pairwise(baselines):
        if other.conditions._replace(benchmark_seed=before.benchmark_seed) != before.conditions:
            raise StudyError(
                f"the tests of a study differ in the draw of the benchmark alone, but {before.path} was measured on "
                f"{before.conditions} and {other.path} on {other.conditions}; make two studies of them"
            )
    draws = [baseline.benchmark_seed for baseline in baselines]
    if len(set(draws)) < len(draws):
        raise StudyError(
            f"{baselines[0].path} and the results beside it are of benchmark seeds {', '.join(map(str, draws))}: two "
            "tests are one and the same; drop one"
        )


def refuse_incomparable(run: StudyRun, results: RunResults, baseline: RunResults) -> None:
    """Keeps what was not measured alike from being compared.

    Raises:
        StudyError: other metrics, conditions, samples, or another seed than the run's.
    """
    for file in (baseline, results):
        missing = [f"{view}/{metric}" for view in ("HQ", "LQ") for metric in METRICS]
        missing = [name for name in missing if name not in file.metrics]
        if missing:
            raise StudyError(f"{file.path} lacks {', '.join(missing)}; delete it, and measure HQ and LQ again")
    if results.conditions != baseline.conditions:
        raise StudyError(
            f"{results.path} was measured on {results.conditions}, but the baseline {baseline.path} on "
            f"{baseline.conditions}; delete the one that is wrong, and run it again"
        )
    if results.sample_keys != baseline.sample_keys:
        raise StudyError(
            f"{results.path} has {len(results.sample_keys)} samples, which are not the {len(baseline.sample_keys)} of "
            f"the baseline {baseline.path}; delete the one that is wrong, and run it again"
        )
    if results.seed != run.seed:
        raise StudyError(f"{results.path} is of seed {results.seed}, but stands for seed {run.seed}; delete it")


def refuse_unlike_measured(results: Sequence[RunResults]) -> None:
    """Keeps numbers of different precisions from being compared; older files, which do not say, compare with any.

    Raises:
        StudyError: two differ in how they were measured.
    """
    said = [(run.path, run.measurement) for run in results if run.measurement is not None]
    for (path, measurement), (other_path, other) in pairwise(said):
        if not measurement.compares_with(other):
            raise StudyError(
                f"{path} was measured in {measurement}, but {other_path} in {other}; delete the one that is wrong, and "
                "run it again, or set the same precision in all tests of the study"
            )


def _point(
    name: str,
    runs: Sequence[StudyRun],
    finished: Sequence[tuple[RunResults, ...]],
    baselines: Sequence[RunResults],
) -> PointSummary:
    per_seed = [_mean_differences(results, baselines) for results in finished]
    return PointSummary(
        name=name,
        num_seeds=len(finished),
        num_expected=len(runs),
        trainable_parameters=finished[0][0].trainable_parameters if finished else None,
        failed=any(run.failed for run in runs),
        diverged=any(run.diverged for run in runs),
        spreads={key: Spread(tuple(found[key] for found in per_seed)) for key in (per_seed[0] if per_seed else ())},
    )


def _mean_differences(results: Sequence[RunResults], baselines: Sequence[RunResults]) -> dict[tuple[str, str], float]:
    """Over the tests, each compared with the baseline's of the same name."""
    found = [_differences(measured, baseline) for measured, baseline in zip(results, baselines, strict=True)]
    return {key: statistics.fmean(part[key] for part in found) for key in found[0]}


def _differences(results: RunResults, baseline: RunResults) -> dict[tuple[str, str], float]:
    scores = adaptation_scores(results.metrics, baseline.metrics)
    found = {}
    for metric in METRICS:
        for quantity, view in (("LQ gain", "LQ"), ("HQ change", "HQ")):
            found[quantity, metric] = results.metrics[f"{view}/{metric}"] - baseline.metrics[f"{view}/{metric}"]
        found["WAS", metric] = scores[f"WAS/{metric}"]
    return found


def _notes(runs: Sequence[StudyRun], results: Sequence[RunResults]) -> tuple[str, ...]:
    notes = [f"failed: {run}: {failure_of(run)}" for run in runs if run.failed]
    missing = [str(run) for run in runs if not run.finished and not run.failed]
    if missing:
        notes.append(f"not run yet, {len(missing)} of {len(runs)}: {'; '.join(missing)}")
    return (*notes, *result_notes(results))


def result_notes(results: Sequence[RunResults]) -> Iterator[str]:
    """What a reader of results must know: what does not count in them, and that not all are of one program."""
    yield from (
        f"{r.path}: {r.skipped} samples were left out, for bad videos or by a limit on batches"
        for r in results
        if r.skipped
    )
    yield from (f"{r.path}: {words}" for r in results for words in r.touched)
    commits = sorted({str(r.git_commit)[:12] for r in results})
    if len(commits) > 1:
        yield f"the runs are of {len(commits)} states of the code: commits {', '.join(commits)}"
    yield from measurement_notes(results)
