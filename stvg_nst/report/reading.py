"""Reads the results of a study, and refuses those that do not compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from stvg_nst.counting import counted
from stvg_nst.report.findings import Findings, Method, Replicate
from stvg_nst.report.runs import measurement_notes
from stvg_nst.results.conditions import SYNTHETIC
from stvg_nst.results.metric_names import METRICS, MetricName
from stvg_nst.results.results_file import RunResults, load_results
from stvg_nst.results.run_folder import RunFile
from stvg_nst.results.was import with_adaptation_scores
from stvg_nst.study import Study, StudyError, StudyRun, planned_runs
from stvg_nst.study.runs import RunTest, refuse_changed


def read_findings(studies: Sequence[Study], runs: Path, *, only: Sequence[str] | None = None) -> Findings:
    """What a study has found on all of its grounders.

    Args:
        studies: one for each grounder.
        runs: folder of all runs.
        only: patterns of the points that are looked at, or all; of the others nothing is missing.

    Raises:
        StudyError: results are of another configuration, of other samples or under other conditions than the
            study's, or a pattern matches no point.
        ResultsFileError: a ``results.json`` is damaged.
    """
    baselines: dict[tuple[str | None, str], Replicate] = {}
    planned: list[StudyRun] = []
    missing: list[str] = []
    points = studies[0].points if only is None else studies[0].of_points(only).points
    for study in studies:
        folder = study.folder_in(runs)
        baseline, trained = planned_runs(study, folder)
        refuse_changed((baseline, *trained))
        measured = list(_measured(baseline))
        _refuse_unlike_tests([replicate.results for replicate in measured])
        baselines |= {(study.grounder, replicate.test): replicate for replicate in measured}
        shown = [run for run in trained if run.point in points]
        planned += shown
        missing += _missing(study, folder, (baseline, *shown), {test.folder for run in trained for test in run.tests})
    if len({replicate.results.conditions._replace(benchmark_seed=0) for replicate in baselines.values()}) > 1:
        found = "; ".join(sorted({str(replicate.results.conditions) for replicate in baselines.values()}))
        raise StudyError(f"the grounders were measured on different things: {found}; give them studies of their own")
    pairs = [pair for run in planned for pair in _paired(run, baselines)]
    _refuse_unlike_measured([replicate.results for replicate in (*baselines.values(), *(own for own, _ in pairs))])
    methods = tuple(_method(point, pairs, planned) for point in points)
    grounders = tuple(dict.fromkeys(grounder for grounder, _ in baselines))
    whole = Findings(
        _marked(studies[0], tuple(baselines.values())),
        tuple(baselines.values()),
        methods,
        tuple(missing),
        tuple(_remarks(studies[0], methods, tuple(baselines.values()), set(grounders))),
    )
    parts = {str(name): _on(name, whole, pairs, planned) for name in grounders if len(grounders) > 1}
    return replace(whole, by_grounder=parts)


def _marked(study: Study, baselines: Sequence[Replicate]) -> Study:
    """The study, whose title says where the data are made up, so that every table and figure of it does."""
    if any(baseline.results.conditions.is_synthetic for baseline in baselines):
        return replace(study, title=f"{SYNTHETIC}. {study.title}")
    return study


def _on(
    grounder: str | None, whole: Findings, pairs: Sequence[tuple[Replicate, Replicate]], runs: Sequence[StudyRun]
) -> Findings:
    own_pairs = [pair for pair in pairs if pair[0].run.grounder == grounder]
    own_runs = [run for run in runs if run.grounder == grounder]
    methods = tuple(_method(method.point, own_pairs, own_runs) for method in whole.methods)
    baselines = tuple(baseline for baseline in whole.baselines if baseline.run.grounder == grounder)
    return Findings(whole.study, baselines, methods)


def _method(point: str, pairs: Sequence[tuple[Replicate, Replicate]], runs: Sequence[StudyRun]) -> Method:
    """The method of a point, from all results and from all planned runs."""
    planned = [run for run in runs if run.point == point]
    return Method(
        point=point,
        replicates=tuple(pair for pair in pairs if pair[0].run.point == point),
        num_runs=len(planned),
        num_expected=sum(len(run.tests) for run in planned),
        num_failed=sum(not test.results.exists() for run in planned if run.failed for test in run.tests),
        diverged=any(run.diverged for run in planned),
    )


def _measured(run: StudyRun) -> Iterator[Replicate]:
    for test in run.tests:
        if test.results.exists():
            results = load_results(test.results)
            yield _replicate(run, test, results, results.metrics)


def _paired(
    run: StudyRun, baselines: Mapping[tuple[str | None, str], Replicate]
) -> Iterator[tuple[Replicate, Replicate]]:
    for test in run.tests:
        baseline = baselines.get((run.grounder, test.name))
        if baseline is not None and test.results.exists():
            results = load_results(test.results)
            _refuse_incomparable(run, results, baseline.results)
            yield _replicate(run, test, results, with_adaptation_scores(results.metrics, baseline.points)), baseline


def _replicate(run: StudyRun, test: RunTest, results: RunResults, points: Mapping[str, float]) -> Replicate:
    return Replicate(test.name, test.folder, run, results, points)


def _missing(study: Study, folder: Path, runs: Sequence[StudyRun], others: Set[Path]) -> Iterator[str]:
    """What is missing of some runs, has failed, or does not belong here; ``others`` are tests that do."""
    weights = runs[0].weights
    if study.grounder is not None and not folder.is_dir():
        absent = f": its weights '{weights}' are not there" if weights is not None and not weights.is_file() else ""
        yield f"INCOMPLETE: {study.grounder} has no results{absent}"
        return
    yield from (f"failed: {run}: {run.why_failed}" for run in runs if run.failed)
    missing = [run for run in runs if not run.finished and not run.failed]
    if missing:
        yield f"INCOMPLETE: {len(missing)} of {len(runs)} runs are not finished, the first being {missing[0]}"
    known = others | {test.folder for run in runs for test in run.tests}
    strangers = sorted(path.parent for path in folder.rglob(RunFile.RESULTS) if path.parent not in known)
    if strangers:
        yield f"left out, for they are no runs of this study: {', '.join(map(str, strangers))}"


def _remarks(
    study: Study, methods: Sequence[Method], baselines: Sequence[Replicate], grounders: Set[str | None]
) -> Iterator[str]:
    """What is not shown, does not compare, no search has chosen or does not count, and that programs differ."""
    if len(methods) < len(study.points):
        yield f"{len(methods)} of the {len(study.points)} points of {study.path.name} are shown, as --only asks"
    parts = [(m.point, {own.run.grounder for own, _ in m.replicates}) for m in methods if m.replicates]
    apart = [f"{point} was run on {' and '.join(map(str, found))} alone" for point, found in parts if found < grounders]
    if apart:
        yield f"levels of rows over other grounders do not compare: {'; '.join(apart)}"
    begun = {study.row(method.point) for method in methods if method.begun}
    words = replace(study, unchosen=tuple(name for name in study.unchosen if name in begun)).unchosen_words
    yield from filter(None, [words])
    results = [own.results for own in (*baselines, *(own for method in methods for own, _ in method.replicates))]
    yield from (
        f"{own.path}: {counted(own.skipped, 'sample')} left out, for bad videos or by a limit on batches"
        for own in results
        if own.skipped
    )
    yield from (f"{own.path}: {words}" for own in results for words in own.touched)
    commits = sorted({str(own.git_commit)[:12] for own in results})
    if len(commits) > 1:
        yield f"the runs are of {len(commits)} states of the code: commits {', '.join(commits)}"
    changed = [own.path for own in results if own.git_dirty]
    if changed:
        yield f"of code that differed from its commit, so that nobody can run it again: {', '.join(map(str, changed))}"
    yield from measurement_notes(results)


def _refuse_unlike_tests(baselines: Sequence[RunResults]) -> None:
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


def _refuse_unlike_measured(results: Sequence[RunResults]) -> None:
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


def _refuse_incomparable(run: StudyRun, results: RunResults, baseline: RunResults) -> None:
    """Keeps what was not measured alike from being compared.

    Raises:
        StudyError: other metrics, conditions, samples, or another seed than the run's.
    """
    for file in (baseline, results):
        missing = [str(MetricName(view, metric)) for view in ("HQ", "LQ") for metric in METRICS]
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
        raise StudyError(f"{results.path} has seed {results.seed}, but is in the place of seed {run.seed}; delete it")
