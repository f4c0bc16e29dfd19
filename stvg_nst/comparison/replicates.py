"""What was measured of each method: once for each grounder, seed and draw of the benchmark, beside its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from stvg_nst.adaptation import adaptation_scores
from stvg_nst.conditions import name_draws, name_measurement
from stvg_nst.report import RunResults, load_results
from stvg_nst.study import Study, StudyError, StudyRun, planned_runs
from stvg_nst.study.runs import RunTest, refuse_changed
from stvg_nst.study.summary import (
    failure_of,
    refuse_incomparable,
    refuse_unlike_measured,
    refuse_unlike_tests,
    result_notes,
)

REFERENCE = "NST"
"""The method that the others of its scope are compared with."""


@dataclass(frozen=True, slots=True)
class Replicate:
    """One test of one run.

    Args:
        grounder: ``None`` where the study has one.
        seed: of the run; ``None`` for the baseline.
        test: its name, empty where the study has one.
        folder: holds ``predictions.json``.
        run: the run that was tested.
        points: the metrics of ``results.json``; of a trained run also the ``WAS/`` relative to its own baseline.
    """

    grounder: str | None
    seed: int | None
    test: str
    folder: Path
    run: StudyRun
    results: RunResults
    points: Mapping[str, float]

    @property
    def place(self) -> tuple[str | None, int | None, str]:
        """What methods are paired by."""
        return self.grounder, self.seed, self.test


@dataclass(frozen=True, slots=True)
class Method:
    """A row of a table: a method in a scope.

    Args:
        scope: what stands before the `` / `` in the name of its point; empty where there is none.
        name: what stands behind.
        replicates: those that stand, each with the baseline that it is relative to.
        num_expected: how many there are to be.
        num_failed: how many of these are of runs whose last attempt failed.
    """

    scope: str
    name: str
    replicates: tuple[tuple[Replicate, Replicate], ...]
    num_expected: int
    num_failed: int

    @property
    def complete(self) -> bool:
        return len(self.replicates) == self.num_expected

    @property
    def point(self) -> str:
        """Its name in the study."""
        return f"{self.scope} / {self.name}" if self.scope else self.name

    @property
    def begun(self) -> bool:
        """Whether there is anything to show of it."""
        return bool(self.replicates) or self.num_failed > 0

    @property
    def trainable_parameters(self) -> int | None:
        return self.replicates[0][0].results.trainable_parameters if self.replicates else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that the tables and figures are made of.

    Args:
        baselines: of each grounder and test that stands; without any there is nothing to compare with.
        methods: in the study's order.
        notes: what a reader must know, first of all what is missing.
        by_grounder: the same on each grounder that stands, by its name, where there are several; without notes.
    """

    title: str
    baselines: tuple[Replicate, ...]
    methods: tuple[Method, ...]
    notes: tuple[str, ...]
    by_grounder: Mapping[str, Comparison] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(method.complete for method in self.methods)

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method.scope for method in self.methods))

    def reference_of(self, method: Method) -> Method | None:
        """Null-space tuning in the method's scope, or else in the last scope where runs of it stand, if any."""
        candidates = [other for other in self.methods if other.name == REFERENCE and other.replicates]
        last = candidates[-1] if candidates else None
        return next((other for other in candidates if other.scope == method.scope), last)

    @property
    def conditions(self) -> str:
        """What was measured on, in words."""
        results = [baseline.results for baseline in self.baselines]
        words = name_draws([found.conditions for found in results])
        words += name_measurement(found.measurement for found in results)
        grounders = dict.fromkeys(baseline.grounder for baseline in self.baselines if baseline.grounder is not None)
        return f"{words}, grounder{'s' if len(grounders) > 1 else ''} {' and '.join(grounders)}" if grounders else words


def read_comparison(studies: Sequence[Study], runs: Path) -> Comparison:
    """What stands of a study, on all of its grounders.

    Raises:
        StudyError: results are of another configuration, of other samples or under other conditions than the
            study's.
        ResultsFileError: a ``results.json`` is damaged.
    """
    baselines: dict[tuple[str | None, str], Replicate] = {}
    planned: list[StudyRun] = []
    notes: list[str] = []
    for study in studies:
        folder = study.folder_in(runs)
        baseline, trained = planned_runs(study, folder)
        refuse_changed((baseline, *trained))
        standing = list(_standing(baseline))
        refuse_unlike_tests([replicate.results for replicate in standing])
        baselines |= {(study.grounder, replicate.test): replicate for replicate in standing}
        planned += trained
        notes += _notes(study, folder, (baseline, *trained))
    if len({replicate.results.conditions._replace(benchmark_seed=0) for replicate in baselines.values()}) > 1:
        found = "; ".join(sorted({str(replicate.results.conditions) for replicate in baselines.values()}))
        raise StudyError(f"the grounders were measured on different things: {found}; give them studies of their own")
    pairs = [pair for run in planned for pair in _paired(run, baselines)]
    methods = tuple(_method(point, pairs, planned) for point in studies[0].points)
    every = (*baselines.values(), *(own for own, _ in pairs))
    refuse_unlike_measured([replicate.results for replicate in every])
    absent = [method for method in methods if not method.begun]
    if absent:
        names = "; ".join(method.point for method in absent)
        notes.append(f"INCOMPLETE: left out, with 0 of {absent[0].num_expected} runs each: {names}")
    notes += _levels_apart(methods, {grounder for grounder, _ in baselines})
    unchosen = tuple(name for name in studies[0].unchosen if name not in [method.point for method in absent])
    notes += filter(None, [replace(studies[0], unchosen=unchosen).unchosen_words])
    notes += result_notes([replicate.results for replicate in every])
    whole = Comparison(studies[0].title, tuple(baselines.values()), methods, tuple(notes))
    grounders = tuple(dict.fromkeys(grounder for grounder, _ in baselines if grounder is not None))
    if len(grounders) < 2:
        return whole
    return replace(whole, by_grounder={name: _on(name, whole, pairs, planned) for name in grounders})


def _on(
    grounder: str, whole: Comparison, pairs: Sequence[tuple[Replicate, Replicate]], runs: Sequence[StudyRun]
) -> Comparison:
    own_pairs = [pair for pair in pairs if pair[0].grounder == grounder]
    own_runs = [run for run in runs if run.grounder == grounder]
    methods = tuple(_method(method.point, own_pairs, own_runs) for method in whole.methods)
    baselines = tuple(baseline for baseline in whole.baselines if baseline.grounder == grounder)
    return Comparison(whole.title, baselines, methods, notes=())


def _method(point: str, pairs: Sequence[tuple[Replicate, Replicate]], runs: Sequence[StudyRun]) -> Method:
    """The method of a point, out of all that stands and of all that is planned."""
    scope, _, name = point.rpartition(" / ")
    planned = [run for run in runs if run.point == point]
    expected = sum(len(run.tests) for run in planned)
    failed = sum(not test.results.exists() for run in planned if run.failed for test in run.tests)
    return Method(scope, name, tuple(pair for pair in pairs if pair[0].run.point == point), expected, failed)


def _standing(run: StudyRun) -> Iterator[Replicate]:
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
            refuse_incomparable(run, results, baseline.results)
            own = {key: value for key, value in results.metrics.items() if not key.startswith("WAS/")}
            yield _replicate(run, test, results, own | adaptation_scores(own, baseline.points)), baseline


def _replicate(run: StudyRun, test: RunTest, results: RunResults, points: Mapping[str, float]) -> Replicate:
    return Replicate(run.grounder, run.seed, test.name, test.folder, run, results, points)


def _notes(study: Study, folder: Path, runs: Sequence[StudyRun]) -> Iterator[str]:
    """What is missing, has failed, or does not belong here."""
    weights = runs[0].weights
    if study.grounder is not None and not folder.is_dir():
        absent = f": its weights '{weights}' are not there" if weights is not None and not weights.is_file() else ""
        yield f"INCOMPLETE: nothing stands of {study.grounder}{absent}"
        return
    yield from (f"failed: {run}: {failure_of(run)}" for run in runs if run.failed)
    missing = [run for run in runs if not run.finished and not run.failed]
    if missing:
        yield f"INCOMPLETE: {len(missing)} of {len(runs)} runs are not finished, the first being {missing[0]}"
    known = {test.folder for run in runs for test in run.tests}
    strangers = sorted(path.parent for path in folder.rglob("results.json") if path.parent not in known)
    if strangers:
        yield f"left out, for they are no runs of this study: {', '.join(map(str, strangers))}"


def _levels_apart(methods: Sequence[Method], grounders: Set[str | None]) -> Iterator[str]:
    """Which methods stand on a part of the grounders, whose numbers are lower or higher for that alone."""
    parts = [(method.point, {own.grounder for own, _ in method.replicates}) for method in methods if method.replicates]
    apart = [f"{point} stands on {' and '.join(map(str, found))} alone" for point, found in parts if found < grounders]
    if apart:
        yield f"levels of rows over other grounders do not compare: {'; '.join(apart)}"
