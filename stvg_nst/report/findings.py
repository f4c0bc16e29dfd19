"""What was measured of the points of a study: of each run and test the numbers, and what they come to over all.

``over_seeds`` and ``over_runs`` are the two meanings of a mean with a deviation.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean

from stvg_nst.results.conditions import name_draws, name_measurement
from stvg_nst.results.metric_names import MAIN, MetricName
from stvg_nst.results.results_file import RunResults
from stvg_nst.study import Study, StudyRun
from stvg_nst.study.definition import scope_and_name

REFERENCE = "NST"
"""The method that the others of its scope are compared with."""
PEER = "LoRA"
"""The method that is shown beside null-space tuning where there is room for one."""
BASELINE = "Zero-shot"


@dataclass(frozen=True, slots=True)
class Replicate:
    """One test of one run.

    Args:
        test: its name, empty where the study has one.
        folder: holds ``predictions.json``.
        run: the run that was tested, or the baseline.
        points: the metrics of ``results.json``; of a trained run also the ``WAS/`` relative to its own baseline.
    """

    test: str
    folder: Path
    run: StudyRun
    results: RunResults
    points: Mapping[str, float]

    @property
    def place(self) -> tuple[str | None, int | None, str]:
        """What methods are paired by: grounder, seed and test."""
        return self.run.grounder, self.run.seed, self.test


@dataclass(frozen=True, slots=True)
class Method:
    """A point of a study, which in most studies is a method in a scope.

    Args:
        point: its name in the study.
        replicates: those with results, each with the baseline that it is relative to.
        num_runs: how many runs there are to be, one for each grounder and seed.
        num_expected: how many replicates there are to be.
        num_failed: how many of these are of runs whose last attempt failed.
        diverged: whether some run diverged, which says something about the point, not about the machine.
    """

    point: str
    replicates: tuple[tuple[Replicate, Replicate], ...]
    num_runs: int
    num_expected: int
    num_failed: int
    diverged: bool = False

    @property
    def scope(self) -> str:
        """The part of its point's name ahead of `` / ``; empty where there is none."""
        return scope_and_name(self.point)[0]

    @property
    def name(self) -> str:
        return scope_and_name(self.point)[1]

    @property
    def complete(self) -> bool:
        return len(self.replicates) == self.num_expected

    @property
    def failed(self) -> bool:
        return self.num_failed > 0

    @property
    def begun(self) -> bool:
        """Whether there is anything to show of it."""
        return bool(self.replicates) or self.failed

    @property
    def trainable_parameters(self) -> int | None:
        return self.replicates[0][0].results.trainable_parameters if self.replicates else None

    @property
    def finished_runs(self) -> tuple[tuple[tuple[Replicate, Replicate], ...], ...]:
        """The replicates of each run of which no test is missing."""
        by_run: defaultdict[tuple[str | None, int | None], list[tuple[Replicate, Replicate]]] = defaultdict(list)
        for own, baseline in self.replicates:
            by_run[own.run.grounder, own.run.seed].append((own, baseline))
        return tuple(tuple(pairs) for pairs in by_run.values() if len(pairs) == len(pairs[0][0].run.tests))

    @property
    def seeds(self) -> str:
        """How many runs are finished, in words."""
        return f"{len(self.finished_runs)} of {self.num_runs}"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the tables and figures of a study are made of.

    Args:
        study: on the first of its grounders.
        baselines: one for each grounder and test with results; without any there is nothing to compare with.
        methods: in the study's order.
        missing: what has failed, is not finished or does not belong here, in words.
        remarks: what else a reader must know.
        by_grounder: the same for each grounder with results, by its name, where there are several; without words.
    """

    study: Study
    baselines: tuple[Replicate, ...]
    methods: tuple[Method, ...]
    missing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    by_grounder: Mapping[str, Findings] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return all(method.complete for method in self.methods)

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(method.scope for method in self.methods))

    @property
    def cells(self) -> dict[tuple[str, str], Method]:
        """In a study of levels, the method of each row and level."""
        return {self.study.cells[method.point]: method for method in self.methods if method.point in self.study.cells}

    def reference_of(self, method: Method) -> Method | None:
        """Null-space tuning in the method's scope, or else in the last scope where it has runs, if any."""
        candidates = [other for other in self.methods if other.name == REFERENCE and other.replicates]
        last = candidates[-1] if candidates else None
        return next((other for other in candidates if other.scope == method.scope), last)

    @property
    def draws(self) -> str:
        """The benchmark, its draws, and how it was measured where that is unusual, in words."""
        results = [baseline.results for baseline in self.baselines]
        measured = name_measurement(found.measurement for found in results)
        return name_draws([found.conditions for found in results]) + measured

    @property
    def conditions(self) -> str:
        """What was measured on, and of which grounders, in words."""
        found = dict.fromkeys(baseline.run.grounder for baseline in self.baselines)
        grounders = [grounder for grounder in found if grounder is not None]
        plural = "s" if len(grounders) > 1 else ""
        return f"{self.draws}, grounder{plural} {' and '.join(grounders)}" if grounders else self.draws

    def baseline_mean(self, key: str) -> float:
        """A metric of the frozen grounder, over all its results."""
        return fmean(baseline.points[key] for baseline in self.baselines)


@dataclass(frozen=True, slots=True)
class Spread:
    """One number of several runs, in percent points; never empty."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation; ``None`` for one value, which has none."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


Number = Callable[[Replicate, Replicate], float | None]
"""Of a replicate and its baseline; ``None`` where these two do not have it."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What tuning does on a view: the difference to the baseline there, or the WAS, which is a difference already."""

    name: str
    view: str
    sign: int = 1

    def number(self, metric: str = MAIN, sentence_type: str | None = None) -> Number:
        key = str(MetricName(self.view, metric, sentence_type))

        def difference(own: Replicate, baseline: Replicate) -> float:
            before = 0.0 if self.view == "WAS" else baseline.points[key]
            return self.sign * (own.points[key] - before)

        return difference


GAIN, CHANGE, DROP = Quantity("LQ gain", "LQ"), Quantity("HQ change", "HQ"), Quantity("HQ drop", "HQ", -1)
SCORE = Quantity("WAS", "WAS")
QUANTITIES = (GAIN, CHANGE, SCORE)
"""The WAS, eq. (8), is the sum of the other two."""


def over_seeds(method: Method, number: Number) -> Spread | None:
    """A number of each finished run: of one that has several tests, their mean. ``None`` where no run is finished.

    Its deviation is that of training again under another seed.
    """
    means = [
        fmean(value for own, baseline in pairs if (value := number(own, baseline)) is not None)
        for pairs in method.finished_runs
    ]
    return Spread(tuple(means)) if means else None


def over_runs(method: Method, view: str, number: Number) -> Spread | None:
    """A number of every replicate that has it; ``None`` where none does.

    The draws of a run are averaged where they would only pretend to more runs than there are: on HQ, which no draw
    touches, and where there is only one run. Otherwise the deviation is that of another seed, grounder or draw.
    """
    by_run: defaultdict[tuple[str | None, int | None], list[float]] = defaultdict(list)
    for own, baseline in method.replicates:
        if (value := number(own, baseline)) is not None:
            by_run[own.run.grounder, own.run.seed].append(value)
    averaged = view == "HQ" or len(by_run) == 1
    values = map(fmean, by_run.values()) if averaged else chain.from_iterable(by_run.values())
    return Spread(tuple(values)) if by_run else None
