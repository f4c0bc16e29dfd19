from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stvg_nst.report.reading import read_findings
from stvg_nst.results.conditions import Measurement
from stvg_nst.study import Study, StudyError, planned_runs

Finish = Callable[..., Path]


def test_every_test_of_every_run_stands_beside_its_own_baseline(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    assert findings.complete and (*findings.missing, *findings.remarks) == ()
    assert findings.conditions == "MiniSTVG test, benchmark seeds 0 and 1"
    lora = findings.methods[0]
    assert (lora.scope, lora.name, lora.num_expected, lora.trainable_parameters) == ("decoder", "LoRA", 4, 1500)
    assert [own.place for own, _ in lora.replicates] == [(None, s, f"draw {d}") for s in (0, 1) for d in (0, 1)]
    assert [base.results.benchmark_seed for _, base in lora.replicates] == [0, 1, 0, 1]
    # +10 on LQ and -4 on HQ under seed 0, both 2 more under seed 1
    assert [own.points["WAS/m_vIoU"] for own, _ in lora.replicates] == pytest.approx([6, 6, 10, 10])


def test_the_reference_is_of_the_same_scope_or_else_the_last(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    nst = findings.methods[1]
    assert [findings.reference_of(method) for method in findings.methods] == [nst, nst, nst]
    without = replace(findings, methods=findings.methods[:1])
    assert without.reference_of(findings.methods[0]) is None
    not_run = replace(nst, point="whole / NST", replicates=())
    planned = replace(findings, methods=(*findings.methods, not_run))
    assert planned.reference_of(findings.methods[2]) is nst


def test_what_is_missing_failed_or_foreign_is_said(study: Study, finish: Finish) -> None:
    runs = finish(lambda run: run.point == "whole / LoRA" and run.seed == 1)
    lost, failed = planned_runs(study, runs)[1][1::4]
    (lost.folder / "draw-1" / "results.json").unlink()
    failed.folder.mkdir()
    failed.failure.write_text("fit ended with status 1: out of memory\n")
    foreign = runs / "mine" / "draw-0"
    foreign.mkdir(parents=True)
    (foreign / "results.json").write_text("{}")
    findings = read_findings([study], runs)
    assert not findings.complete
    assert [len(method.replicates) for method in findings.methods] == [4, 3, 2]
    assert [method.num_failed for method in findings.methods] == [0, 0, 2]
    assert findings.missing == (
        f"failed: whole / LoRA, seed 1: fit ended with status 1: out of memory ({failed.log})",
        "INCOMPLETE: 1 of 7 runs are not finished, the first being decoder / NST, seed 0",
        f"left out, for they are no runs of this study: {foreign}",
    )


def test_a_run_that_was_finished_by_hand_has_not_failed(study: Study, finish: Finish) -> None:
    runs = finish()
    planned_runs(study, runs)[1][0].failure.write_text("fit ended with status 1: out of memory\n")
    assert read_findings([study], runs).missing == ()


def test_only_draws_of_one_benchmark_are_averaged(study: Study, finish: Finish) -> None:
    runs = finish()
    second = planned_runs(study, runs)[0].tests[1].results
    written = json.loads(second.read_text())
    second.write_text(json.dumps(written | {"split": "val"}))
    with pytest.raises(StudyError, match=r"differ in the draw of the benchmark alone, but .* on MiniSTVG test, .* val"):
        read_findings([study], runs)
    second.write_text(json.dumps(written | {"benchmark_seed": 0}))
    with pytest.raises(StudyError, match="of benchmark seeds 0, 0: two tests are one and the same"):
        read_findings([study], runs)


def test_an_absent_grounder_is_said(study: Study, finish: Finish) -> None:
    runs = finish()
    other = replace(study, grounder="second", baseline={**study.baseline, "model": {"weights": "absent.safetensors"}})
    findings = read_findings([study, other], runs)
    assert "INCOMPLETE: second has no results: its weights 'absent.safetensors' are not there" in findings.missing
    assert [method.num_expected for method in findings.methods] == [8, 8, 8] and not findings.complete
    assert read_findings([other], runs).baselines == ()


def test_different_precisions_are_not_compared(study: Study, finish: Finish) -> None:
    runs = finish()
    files = sorted(runs.rglob("results.json"))
    for path, precision in ((files[0], "32-true"), (files[-1], "bf16-mixed")):
        measured = {"measurement": asdict(Measurement(precision))}
        path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    with pytest.raises(StudyError, match=r"was measured in .*, but .*results\.json in .*; delete the one that is"):
        read_findings([study], runs)
    for path in files:
        measured = {"measurement": asdict(Measurement("bf16-mixed"))}
        path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    findings = read_findings([study], runs)
    assert findings.conditions == "MiniSTVG test, benchmark seeds 0 and 1, measured in bf16-mixed"
    assert (*findings.missing, *findings.remarks) == ()


def test_runs_of_code_that_is_in_no_commit_are_named(study: Study, finish: Finish) -> None:
    runs = finish()
    path = runs / "decoder-NST-seed0" / "draw-1" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"git_dirty": True}))
    (remark,) = read_findings([study], runs).remarks
    assert remark == f"of code that differed from its commit, so that nobody can run it again: {path}"


def test_of_points_that_are_not_asked_for_nothing_is_missing(study: Study, finish: Finish) -> None:
    runs = finish(lambda run: run.point == "decoder / LoRA")
    assert "INCOMPLETE" in read_findings([study], runs).missing[0]
    findings = read_findings([study], runs, only=["decoder / NST"])
    assert [method.point for method in findings.methods] == ["decoder / NST"]
    assert findings.missing == (), "runs of other points belong to the study"
    assert f"1 of the {len(study.points)} points of study.yaml are shown" in findings.remarks[0]
    with pytest.raises(StudyError, match="the study has no point 'NST'; it has"):
        read_findings([study], runs, only=["NST"])
