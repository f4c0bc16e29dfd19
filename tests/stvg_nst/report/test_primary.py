"""The comparisons that a study was made for, with Holm's correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stvg_nst.report.paired import PairedBootstrap
from stvg_nst.report.primary import holm, primary_table
from stvg_nst.report.reading import read_findings
from stvg_nst.report.sheet import Sheet
from stvg_nst.report.tables import tables_command
from stvg_nst.study import Study, StudyError
from stvg_nst.study.definition import Primary

Finish = Callable[..., Path]
PRIMARY = Primary("decoder / NST", ("decoder / LoRA", "whole / LoRA"))


def table(study: Study, runs: Path, draws: int = 999) -> Sheet:
    findings = read_findings([study], runs)
    own = [replicate for method in findings.methods for replicate, _ in method.replicates]
    return primary_table(findings, PairedBootstrap(own, draws=draws, over_seeds=True))


@pytest.mark.parametrize(
    ("found", "corrected"),
    [
        ([0.01], [0.01]),
        # By hand: 3 x 0.01, 2 x 0.02, and 0.03, which is not below the one before it.
        ([0.02, 0.03, 0.01], [0.04, 0.04, 0.03]),
        ([0.04, 0.03, 0.5, 0.005], [0.09, 0.09, 0.5, 0.02]),
        ([0.4, 0.6], [0.8, 0.8]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([], []),
    ],
)
def test_holms_correction(found: list[float], corrected: list[float]) -> None:
    assert holm(found) == pytest.approx(corrected)


def test_the_method_is_compared_with_each_rival_and_corrected_for_all(study: Study, finish: Finish) -> None:
    sheet = table(replace(study, primary=PRIMARY), finish())
    # NST is ahead of LoRA by one point of WAS on every clip, seed and draw.
    rows = [[cell.text for cell in row] for row in sheet.sections[0].rows]
    assert [row[1] for row in rows] == ["NST", "LoRA", "LoRA"] and rows[0][-3:] == ["", "", ""]
    for row in rows[1:]:
        assert row[-3:] == ["+1.00 [+1.0, +1.0]*", "0.0020", "0.0040"], "2 / 1000, and twice that"
    assert [record["p, Holm"] for record in sheet.records] == [None, pytest.approx(0.004), pytest.approx(0.004)]
    assert sheet.records[1]["pairs"] == 4 and "corrected for 2 comparisons after Holm" in " ".join(sheet.notes)
    assert sheet.title.endswith("Primary comparisons: WAS of m_vIoU") and "Seeds of training: 2." in sheet.notes


def test_a_comparison_that_is_not_shown_cannot_be_made(study: Study, finish: Finish) -> None:
    findings = read_findings([replace(study, primary=PRIMARY)], finish(), only=["decoder / *"])
    with pytest.raises(StudyError, match="need 'whole / LoRA', which --only leaves out"):
        primary_table(findings, PairedBootstrap([], draws=9, over_seeds=True))


def test_under_one_seed_the_table_says_what_its_intervals_leave_out(study: Study, finish: Finish) -> None:
    sheet = table(replace(study, primary=PRIMARY), finish(lambda run: run.point == "whole / LoRA" and run.seed == 1))
    (words,) = (note for note in sheet.notes if note.startswith("Seeds of training"))
    assert words.startswith(
        "Seeds of training: 2 against decoder / LoRA; 1 against whole / LoRA. With one, interval and"
    )
    assert [record["seeds"] for record in sheet.records] == [None, 2, 1]
    assert "a run is a tuning seed on a grounder, tested on a draw of the benchmark" in sheet.notes[0]


def test_a_rival_without_runs_still_counts(study: Study, finish: Finish) -> None:
    sheet = table(replace(study, primary=PRIMARY), finish(lambda run: run.point == "whole / LoRA"))
    rows = [[cell.text for cell in row] for row in sheet.sections[0].rows]
    assert rows[1][-2:] == ["0.0020", "0.0040"] and rows[2][-3:] == ["", "", ""]
    assert "INCOMPLETE" in sheet.title and sheet.records[2]["p, Holm"] is None


def test_there_must_be_something_to_compare(study: Study, finish: Finish) -> None:
    runs = finish(lambda run: run.point == "decoder / NST")
    with pytest.raises(StudyError, match=r"names no primary comparisons; write them under the key 'primary'"):
        table(study, runs)
    with pytest.raises(StudyError, match=r"the primary comparisons need a run of 'decoder / NST'"):
        table(replace(study, primary=PRIMARY), runs)


def test_tables_show_it_where_the_study_names_it(
    study: Study, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = finish()
    arguments = [str(study.path), "--runs", str(runs), "--bootstrap", "20"]
    with pytest.raises(StudyError, match=r"not made: primary: .* names no primary comparisons"):
        tables_command([*arguments, "--show", "primary"], prog="t", show=None)  # type: ignore[arg-type]
    with study.path.open("a") as file:
        file.write("primary: {method: decoder / NST, against: [decoder / LoRA]}\n")
    assert tables_command([*arguments, "--show", "primary"], prog="t", show=None) == 0  # type: ignore[arg-type]
    assert "+1.00 [+1.0, +1.0]" in (runs / "tables" / "primary.md").read_text()
    assert "Primary comparisons" in capsys.readouterr().out
