from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stvg_nst.report.findings import Findings
from stvg_nst.report.paired import PairedBootstrap
from stvg_nst.report.paper import figure2_table, table1, table2
from stvg_nst.report.reading import read_findings
from stvg_nst.report.robustness import robustness, severity_changes, severity_levels
from stvg_nst.report.sheet import Sheet, sheet_csv, sheet_markdown, sheet_text
from stvg_nst.study import Study

Finish = Callable[..., Path]
Make = Callable[[Findings, PairedBootstrap], Sheet]


def sheet(make: Make, findings: Findings) -> Sheet:
    own = [run for method in findings.methods for run, _ in method.replicates]
    return make(findings, PairedBootstrap(own, draws=50))


def rows(made: Sheet) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(sheet_csv(made))))


def test_table_1_by_hand(study: Study, finish: Finish) -> None:
    made = sheet(table1, read_findings([study], finish()))
    text = sheet_markdown(made)
    # Overlaps of 0.615 on HQ and 0.415 and 0.435 on LQ: 51.5 and 52.5 on MQ. LoRA adds 3 and NST 3.5, both 2 more under
    # seed 1.
    assert "| Zero-shot | 0 | 2 | 62.00 | 52.00 | 100.00 | 50.00 |" in text
    lora, nst = (text.split(f"| decoder | {name} ")[1].split("\n")[0] for name in ("LoRA", "NST"))
    assert lora.startswith("| 1.50 k | 4 | 66.00 (+4.00 \u00b1 1.15) | 56.00 (+4.00 \u00b1 1.15) |")
    assert nst.startswith("| 1.50 k | 4 | **66.50 (+4.50 \u00b1 1.15)** | **56.50 (+4.50 \u00b1 1.15)** |")
    assert lora.endswith("| -0.50 [-0.5, -0.5]* |") and nst.endswith("|  |")
    assert text.count("### ") == 2 and "### declarative sentences" in text
    assert "Peers. Table I" in text and "INCOMPLETE" not in text
    found = [row for row in rows(made) if row["sentence_type"] == "interrogative"]
    assert [row["method"] for row in found] == ["Zero-shot", "LoRA", "NST", "LoRA"]
    assert float(found[1]["m_vIoU"]) == pytest.approx(56) and float(found[0]["m_vIoU"]) == pytest.approx(52)
    assert float(found[1]["m_vIoU change mean"]) == pytest.approx(4)
    assert float(found[1]["m_vIoU change std"]) == pytest.approx((4 / 3) ** 0.5)
    assert float(found[1]["m_vIoU to NST"]) == pytest.approx(-0.5)


def test_table_2_is_gain_less_drop(study: Study, finish: Finish) -> None:
    made = sheet(table2, read_findings([study], finish()))
    first = rows(made)[0]
    assert (first["method"], first["runs"], first["of_runs"]) == ("LoRA", "4", "4")
    assert float(first["m_vIoU mean"]) == pytest.approx(8) and float(first["m_vIoU std"]) == pytest.approx(
        (16 / 3) ** 0.5
    )
    assert "+8.00 \u00b1 2.31" in sheet_text(made) and "Zero-shot" not in sheet_text(made)


def test_figure_2_turns_the_change_on_hq_into_a_drop(study: Study, finish: Finish) -> None:
    first = rows(sheet(figure2_table, read_findings([study], finish())))[0]
    assert float(first["HQ drop mean"]) == pytest.approx(3) and float(first["LQ gain mean"]) == pytest.approx(11)
    assert float(first["HQ drop to NST"]) == pytest.approx(3) and float(first["WAS to NST"]) == pytest.approx(-1)
    assert (first["scope of NST"], first["pairs with NST"]) == ("decoder", "4")


def test_hq_counts_once_a_run_however_often_lq_is_drawn(study: Study, finish: Finish) -> None:
    first = rows(sheet(figure2_table, read_findings([study], finish())))[0]
    # Seeds 0 and 1 drop 4 and 2 points, under either draw: four numbers would pretend to a deviation of 1.15.
    assert float(first["HQ drop std"]) == pytest.approx(2**0.5)
    assert float(first["LQ gain std"]) == pytest.approx((4 / 3) ** 0.5)


def test_draws_of_one_run_are_no_spread(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish(lambda run: run.seed == 1))
    made = sheet(figure2_table, findings)
    assert {row["LQ gain std"] for row in rows(made)} == {""} and "\u00b1 0" not in sheet_markdown(made).split("* ")[0]


def test_a_grounder_that_not_all_have_moves_no_difference(study: Study, finish: Finish) -> None:
    """LoRA stands on one grounder, NST on a second too, whose levels are ten points higher."""
    first, second = (
        replace(study, grounder=name, baseline=study.baseline | {"model": {"weights": "random", "name": name}})
        for name in ("first", "second")
    )
    finish(of=first)
    findings = read_findings([first, second], finish(lambda run: "LoRA" in str(run.point), of=second, level=0.1))
    made = rows(sheet(figure2_table, findings))
    lora, nst, _ = (row for row in made if not row["grounder"])
    assert (lora["runs"], nst["runs"], lora["pairs with NST"]) == ("4", "8", "4")
    assert float(lora["WAS mean"]) == pytest.approx(8) and float(nst["WAS mean"]) == pytest.approx(9)
    assert float(lora["WAS to NST"]) == pytest.approx(-1)
    table = sheet(table1, findings)
    assert "57.00 (+" not in sheet_markdown(table) and "(+4.00 \u00b1" in sheet_markdown(table)
    changes = {method.name: severity_changes(method.replicates) for method in findings.methods[:2]}
    assert changes["LoRA"]["defocus", "1"] == pytest.approx(11) and changes["NST"]["defocus", "1"] == pytest.approx(9)
    assert "over other grounders do not compare: decoder / LoRA was run on first alone; whole" in sheet_text(table)


def test_figure_2_by_grounder(study: Study, finish: Finish) -> None:
    """NST lacks a seed on the second of two grounders."""
    first, second = (
        replace(study, grounder=name, baseline=study.baseline | {"model": {"weights": "random", "name": name}})
        for name in ("first", "second")
    )
    finish(of=first)
    runs = finish(lambda run: run.point == "decoder / NST" and run.seed == 1, of=second, level=0.1)
    made = sheet(figure2_table, read_findings([first, second], runs))
    assert [section.title for section in made.sections] == ["all grounders", "grounder first", "grounder second"]
    found = {(row["grounder"], row["method"]): row for row in rows(made) if row["scope"] == "decoder"}
    runs_of_nst = [(found[g, "NST"]["runs"], found[g, "NST"]["of_runs"]) for g in ("", "first", "second")]
    assert runs_of_nst == [("6", "8"), ("4", "4"), ("2", "4")]
    assert float(found["first", "NST"]["WAS mean"]) == pytest.approx(9)
    assert float(found["second", "NST"]["WAS mean"]) == pytest.approx(7)  # without seed 1
    assert float(found["", "NST"]["WAS mean"]) == pytest.approx((4 * 9 + 2 * 7) / 6)
    assert [found[g, "LoRA"]["pairs with NST"] for g in ("", "first", "second")] == ["6", "4", "2"]
    assert "2 of 4" in sheet_text(made).split("grounder second")[1]
    one = sheet(figure2_table, read_findings([first], runs))
    assert [section.title for section in one.sections] == [""] and {row["grounder"] for row in rows(one)} == {""}


def test_incomplete_results_are_shown_as_such(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish(lambda run: run.point == "whole / LoRA" or run.seed == 1))
    text = sheet_text(sheet(table1, findings))
    assert "INCOMPLETE" in text.splitlines()[0]
    assert " 2 of 4 " in text and " 0 of 4 " in text
    assert "note: INCOMPLETE: 4 of 7 runs are not finished" in text
    assert "note: INCOMPLETE: left out, with 0 of 4 runs each: whole / LoRA\n" in text
    for made in (sheet(table1, findings), sheet(figure2_table, findings), robustness(findings)):
        assert "whole" not in [row[0].text for section in made.sections for row in section.rows]
    assert {row["runs"] for row in sheet(table1, findings).records if row["scope"] == "whole"} == {0}


def test_what_was_not_chosen_is_said_of_what_is_shown(study: Study, finish: Finish) -> None:
    unsearched = replace(study, unchosen=("decoder / LoRA", "whole / LoRA"))
    findings = read_findings([unsearched], finish(lambda run: run.point == "whole / LoRA"))
    assert [note for note in findings.remarks if note.startswith("no search")] == [
        "no search has chosen for decoder / LoRA: the settings of the overlays hold"
    ]


def test_robustness_by_kind_and_severity(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    made = robustness(findings)
    found = {row["view"]: float(row["m_vIoU"]) for row in rows(made) if row["method"] == "Zero-shot"}
    assert found["defocus"] == pytest.approx(41.5) and found["low_light"] == pytest.approx(43.5)
    assert found["severity-5"] == pytest.approx(43) and found["defocus:5"] == pytest.approx(42)
    assert found["LQ-mean"] == pytest.approx(42.5) and found["LQ-worst"] == pytest.approx(41.5)
    assert found["LQ-relative"] == pytest.approx((41.5 + 43.5) / 2 / 61.5 * 100)
    assert severity_levels(findings.baselines)["low_light", "5"] == pytest.approx(44)
    assert " sev. 5 " in sheet_text(made) and " worst kind " in sheet_text(made)
    lora = next(row for row in rows(made) if row["method"] == "LoRA" and row["view"] == "defocus:5")
    assert float(lora["m_vIoU"]) == pytest.approx(53) and float(lora["change mean"]) == pytest.approx(11)


def test_the_spread_over_kinds_is_over_the_runs_of_figure_2(study: Study, finish: Finish) -> None:
    """On HQ, which no draw touches, a seed counts once; two draws of one training have no spread."""
    findings = read_findings([study], finish(lambda run: run.point == "decoder / NST" and run.seed == 1))
    drops = {row["method"]: row for row in rows(sheet(figure2_table, findings)) if row["scope"] == "decoder"}
    found = {(row["method"], row["view"]): row for row in rows(robustness(findings)) if row["scope"] == "decoder"}
    assert float(drops["LoRA"]["HQ drop std"]) == pytest.approx(float(found["LoRA", "HQ"]["change std"])) != 0
    assert {found["NST", view]["change std"] for view in ("HQ", "LQ", "defocus:5")} == {""}


def test_a_cell_that_some_draws_leave_empty_is_over_the_others(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    for replicate in (findings.baselines[0], *findings.methods[0].replicates[0][:1]):
        for sample in replicate.results.samples:
            if sample["degradation"] == "defocus:5":
                sample["degradation"] = "defocus:4"  # type: ignore[index]
    assert severity_levels(findings.baselines)["defocus", "5"] == pytest.approx(43)
    assert severity_changes(findings.methods[0].replicates[2:])["defocus", "5"] == pytest.approx(12)
    assert "defocus:4" in {row["view"] for row in rows(robustness(findings))}


def test_every_line_of_a_text_is_as_wide_as_it_must_be(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    for made in (*(sheet(make, findings) for make in (table1, table2, figure2_table)), robustness(findings)):
        text = sheet_text(made)
        assert all(line == line.rstrip() for line in text.splitlines()) and "\u2026" not in text


def test_where_nothing_is_left_on_hq_lq_has_no_share_of_it(study: Study, finish: Finish) -> None:
    runs = finish()
    (path,) = (runs / "decoder-LoRA-seed0" / "draw-0").glob("results.json")
    content = json.loads(path.read_text())
    for sample in content["samples"]:
        sample["vIoU"] *= sample["quality"] == "LQ"
    path.write_text(json.dumps(content))
    found = {(row["scope"], row["method"], row["view"]): row for row in rows(robustness(read_findings([study], runs)))}
    assert float(found["decoder", "LoRA", "LQ-relative"]["change mean"]) > 0, "over the three runs that have it"
