"""The comparisons that a study was made for, named in its file beforehand: apart from all others, and corrected."""

from __future__ import annotations

from collections.abc import Sequence

from stvg_nst.evaluation.bootstrap import LEVEL
from stvg_nst.report.findings import CHANGE, GAIN, SCORE, Findings, Method, over_runs
from stvg_nst.report.numbers import signed
from stvg_nst.report.paired import Difference, PairedBootstrap
from stvg_nst.report.rows import LABELS, SPREAD_OVER_RUNS, identity, labels, methods_sheet, numbers, spread_cell
from stvg_nst.report.sheet import Cell, Row, Section, Sheet
from stvg_nst.results.metric_names import MAIN
from stvg_nst.study import StudyError

_SHOWN = (GAIN, CHANGE, SCORE)
_FIELDS = {
    "difference": "mean",
    "difference low": "low",
    "difference high": "high",
    "pairs": "pairs",
    "seeds": "seeds",
    "p": "p",
}


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """The p-values of several comparisons, corrected so that a false claim among all of them stays as rare as in one.

    Source: Holm (1979), step-down, as adjusted p-values.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p_values[index]))
        corrected[index] = least
    return tuple(corrected)


def primary_table(findings: Findings, bootstrap: PairedBootstrap) -> Sheet:
    """The study's own method against each of its rivals in the WAS of m_vIoU, and what each does on both qualities.

    Args:
        bootstrap: over clips and seeds.

    Raises:
        StudyError: the study names no such comparisons, or there are no runs of its method.
    """
    primary = findings.study.primary
    if primary is None:
        raise StudyError(f"{findings.study.path}: names no primary comparisons; write them under the key 'primary'")
    by_point = {method.point: method for method in findings.methods}
    if lacking := [point for point in (primary.method, *primary.against) if point not in by_point]:
        raise StudyError(f"the primary comparisons need '{lacking[0]}', which --only leaves out")
    own = by_point[primary.method]
    if not own.replicates:
        raise StudyError(f"the primary comparisons need a run of '{own.point}'; run the study first")
    rivals = [by_point[point] for point in primary.against]
    differences = [bootstrap.difference(own, rival, SCORE.view, MAIN) for rival in rivals]
    # A rival without runs still counts as a comparison: what is missing must not make the others look surer.
    corrected = holm([1.0 if difference is None else difference.p for difference in differences])
    rows = [_row(own, None, None)]
    records = [_record(own, None, None)]
    for rival, difference, p in zip(rivals, differences, corrected, strict=True):
        rows.append(_row(rival, difference, p))
        records.append(_record(rival, difference, p))
    columns = (
        *LABELS,
        *(quantity.name for quantity in _SHOWN),
        f"{SCORE.name} of {own.name} less this",
        "p",
        "p, Holm",
    )
    words = (
        SPREAD_OVER_RUNS,
        f"The difference has a {100 * LEVEL:g} % bootstrap interval over clips and seeds of training, both drawn with "
        "replacement and apart from each other, paired over the runs that both have. p is that of no difference, by "
        f"the same bootstrap, and corrected for {len(rivals)} comparisons after Holm; * where the corrected p is below "
        f"{1 - LEVEL:.2g}.",
        _words_of_seeds(rivals, differences),
    )
    title = f"Primary comparisons: {SCORE.name} of {MAIN}"
    return methods_sheet(findings, "primary", title, [Section("", columns, tuple(rows))], records, words)


def _words_of_seeds(rivals: Sequence[Method], differences: Sequence[Difference | None]) -> str:
    """How many seeds the runs of each comparison have, and what one seed cannot say."""
    found = zip(rivals, differences, strict=True)
    counts = {rival.point: difference.seeds for rival, difference in found if difference is not None}
    alike = len(set(counts.values())) == 1
    said = str(next(iter(counts.values()))) if alike else "; ".join(f"{n} against {name}" for name, n in counts.items())
    single = ". With one, interval and p are over clips alone, and say nothing of another training"
    return f"Seeds of training: {said or 'none in common'}{single if 1 in counts.values() else ''}."


def _row(method: Method, difference: Difference | None, corrected: float | None) -> Row:
    shown = [spread_cell(method, over_runs(method, quantity.view, quantity.number())) for quantity in _SHOWN]
    if difference is None or corrected is None:
        return (*labels(method), *shown, Cell(""), Cell(""), Cell(""))
    star = "*" if corrected < 1 - LEVEL else ""
    found = f"{signed(difference.mean)} [{difference.low:+.1f}, {difference.high:+.1f}]{star}"
    return (*labels(method), *shown, Cell(found), Cell(f"{difference.p:.4f}"), Cell(f"{corrected:.4f}"))


def _record(method: Method, difference: Difference | None, corrected: float | None) -> dict[str, object]:
    record = identity(method)
    for quantity in _SHOWN:
        record |= numbers(quantity.name, over_runs(method, quantity.view, quantity.number()))
    found = {
        name: None if difference is None else getattr(difference, attribute) for name, attribute in _FIELDS.items()
    }
    return record | found | {"p, Holm": None if difference is None else corrected}
