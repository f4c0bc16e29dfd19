"""Does a baseline reproduce what others have published of it: its tubes, counted again by their protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stvg_nst.evaluation import evaluate, load_ground_truth, load_predictions
from stvg_nst.report.findings import Findings, Replicate
from stvg_nst.report.numbers import signed
from stvg_nst.report.sheet import Cell, Section, Sheet
from stvg_nst.results.run_folder import RunFile
from stvg_nst.study import StudyError
from stvg_nst.study.published import Published


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The published numbers of a study's baseline beside the measured ones, both in percent, by name.

    Args:
        findings: of a study with ``published``.
        published: what they are held against.
        measured: by the published protocol; it has all of the published names.
    """

    findings: Findings
    published: Published
    measured: Mapping[str, float]

    @classmethod
    def of(cls, findings: Findings) -> Reproduction:
        """Counts the tubes of the study's baseline.

        Raises:
            StudyError: a number was not measured, for it is of another view or another type of sentence.
        """
        published, baseline = findings.study.published, findings.baselines[0]
        assert published is not None
        measured = _metrics(baseline, published)
        if lacking := [name for name in published.numbers if name not in measured]:
            raise StudyError(
                f"{findings.study.path}: 'published' has {', '.join(lacking)}, but '{baseline.folder}' measured "
                f"{', '.join(sorted(measured))}; correct the names, or evaluation_conditions"
            )
        return cls(findings, published, measured)

    def difference(self, name: str) -> float:
        return self.measured[name] - self.published.numbers[name]

    @property
    def off(self) -> tuple[str, ...]:
        """Numbers that differ by more than the tolerance; none of a study cut short, which has other data."""
        if self.findings.study.quick:
            return ()
        return tuple(n for n in self.published.numbers if abs(self.difference(n)) > self.published.tolerance)

    def require(self) -> None:
        """Keeps anything from being compared with a baseline that is not the published one.

        Raises:
            StudyError: some numbers are off. The message names all of them, and what to look at.
        """
        if self.off:
            numbers, heading = self.published.numbers, self.findings.study.heading
            found = (f"{n}: {self.measured[n]:.2f}, published {numbers[n]:g}" for n in self.off)
            raise StudyError(
                f"{heading}: not reproduced within {self.published.tolerance:g} points of {self.published.source}:"
                + "".join(f"\n  {words}" for words in found)
                + "\nlook at:"
                + "".join(f"\n  {words}" for words in self.published.otherwise)
            )

    def sheet(self) -> Sheet:
        study, published = self.findings.study, self.published
        columns = ("Number", "Published", "Measured", "Difference", "")
        section = Section(study.heading, columns, tuple(map(self._row, published.numbers)), labels=1)
        note = (
            f"{self.findings.draws}. Percent, of the tubes in '{self.findings.baselines[0].folder}', counted by the "
            f"protocol {published.protocol}. Published: {published.source}. Tolerance: {published.tolerance:g} points."
        )
        records = tuple(
            {
                "study": study.heading,
                "number": name,
                "published": expected,
                "measured": self.measured[name],
                "reproduced": None if study.quick else name not in self.off,
            }
            for name, expected in published.numbers.items()
        )
        notes = (note, *self.findings.missing, *self.findings.remarks)
        return Sheet("", (section,), notes, records, "published")

    def _row(self, name: str) -> tuple[Cell, ...]:
        numbers = (f"{self.published.numbers[name]:.2f}", f"{self.measured[name]:.2f}", signed(self.difference(name)))
        off = name in self.off
        verdict = "not asked: QUICK" if self.findings.study.quick else "NOT REPRODUCED" if off else "reproduced"
        return Cell(name), *map(Cell, numbers), Cell(verdict, warns=off)


def _metrics(baseline: Replicate, published: Published) -> Mapping[str, float]:
    predictions = load_predictions(baseline.folder / RunFile.PREDICTIONS)
    truth = load_ground_truth(baseline.folder / RunFile.GROUND_TRUTH)
    return evaluate(predictions, truth, protocols=[published.protocol]).protocols[published.protocol].metrics
