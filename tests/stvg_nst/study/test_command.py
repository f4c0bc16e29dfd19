"""The command as a whole, over a program that stands for `fit` and `test`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from stvg_nst.report import study as reporting
from stvg_nst.results.conditions import Measurement
from stvg_nst.study import StudyError, command, launch, planned_runs, read_studies
from stvg_nst.study.definition import quick_folder
from stvg_nst.study.launch import alone_in_study

Write = Callable[..., Path]
ADAPTED = {"model.tuner.init_args.rank": 8}


@pytest.fixture
def study(tmp_path: Path, program: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reporting, "draw_study", lambda findings, *paths: None)  # takes longer than all the rest

    def run(path: Path, *options: str) -> int:
        arguments = [str(path), "--runs", str(tmp_path / "runs"), *options]
        return command.study_command(arguments, prog="study", report=reporting.report_study, program=program)

    return run


def calls(folder: Path) -> dict[str, list[str]]:
    """The stages that each run was put through since the last look, with the threads that each was given."""
    found = {path.parent.name: path.read_text().splitlines() for path in sorted(folder.glob("*/calls"))}
    for path in folder.glob("*/calls"):
        path.unlink()
    return found


def stages(folder: Path) -> dict[str, list[str]]:
    return {name: [line.split()[0] for line in lines] for name, lines in calls(folder).items()}


def test_a_study_from_nothing_to_its_report(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert study(write()) == 0
    trained = {f"rank-{rank}-seed{seed}": ["fit", "test"] for rank in (4, 8) for seed in (0, 1)}
    assert stages(runs) == {**trained, "zero-shot": ["test"]}
    text = capsys.readouterr().out
    assert "Two ranks: 5 runs, 5 to go, 1 at once; about 15 min on 2 CPU cores (3 minutes a run)" in text
    # rank 8: LQ gain 8 and 9, HQ change -0.8, so WAS 7.2 and 8.2
    assert re.search(r"rank 8 +8\.00 k +2 of 2 +\+8\.50 ± 0\.71", text), text
    assert re.search(r"rank 8 +8\.00 k +2 of 2 +-0\.80 ± 0\.00", text)
    assert "(HQ 50.00 / 50.00 / 50.00 / 50.00, LQ 30.00" in text
    assert text.count("note:") == 1, "of what the numbers are, and of nothing else"
    assert "| WAS | rank 8 | 8.00 k | 2 of 2 | **+7.70 ± 0.71** |" in (runs / "study.md").read_text()
    rows = list(csv.DictReader((runs / "study.csv").open()))
    assert len(rows) == 2 * 4
    assert float(rows[4]["was_mean"]) == pytest.approx(7.7) and float(rows[4]["was_std"]) == pytest.approx(0.5**0.5)
    log = (runs / "rank-4-seed1" / "log.txt").read_text()
    assert re.search(r"^\$ .* fit --config .*point\.yaml --run .* --ckpt_path last$", log, re.MULTILINE)
    assert f"--model.baseline {runs}/zero-shot/results.json" in log


def test_what_stands_is_not_repeated(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    assert study(write()) == 0
    calls(runs)
    assert study(write()) == 0
    assert stages(runs) == {}
    assert "5 of 5 runs finished" in capsys.readouterr().out
    (runs / "rank-4-seed0" / "results.json").unlink()
    assert study(write(title="Another title", minutes_per_run=7)) == 0
    assert stages(runs) == {"rank-4-seed0": ["test"]}, "the fit stands"


def test_a_grown_study_runs_what_is_new(study: Any, write: Write, content: Any, tmp_path: Path) -> None:
    assert study(write(seeds=[0])) == 0
    calls(tmp_path / "runs")
    more = content["points"] | {"hard": {"model.tuner.init_args.gate": "hard"}}
    assert study(write(seeds=[0, 2], points=more)) == 0
    assert set(stages(tmp_path / "runs")) == {"rank-4-seed2", "rank-8-seed2", "hard-seed0", "hard-seed2"}


@pytest.mark.parametrize("options", [(), ("--report-only",)])
def test_results_of_another_configuration_are_refused(
    study: Any, write: Write, tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert study(write()) == 0
    before = (tmp_path / "runs" / "rank-8-seed0" / "results.json").stat().st_mtime_ns
    with pytest.raises(StudyError, match=r"rank-8-seed0': model\.tuner\.init_args\.rank: 8 before, 9 now"):
        study(write(points={"rank 4": {}, "rank 8": {"model.tuner.init_args.rank": 9}}), *options)
    (tmp_path / "base.yaml").write_text((tmp_path / "base.yaml").read_text().replace("4", "5"))
    with pytest.raises(StudyError, match=r"rank-4-seed0': trainer\.max_epochs: 4 before, 5 now"):
        study(write(), *options)
    assert (tmp_path / "runs" / "rank-8-seed0" / "results.json").stat().st_mtime_ns == before


def test_other_weights_of_the_same_name_are_refused(study: Any, write: Write, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_text("a")
    path = write(seeds=[0], set={"model.weights": str(weights)})
    assert study(path) == 0
    written = (tmp_path / "runs" / "rank-4-seed0" / "weights.sha256").read_text()
    assert written == f"{hashlib.sha256(b'a').hexdigest()}  {weights}\n"
    weights.unlink()
    assert study(path, "--report-only") == 0, "a report needs no weights"
    weights.write_text("another")
    with pytest.raises(StudyError, match=r"rank-4-seed0': content of model\.weights '.*': sha256 ca978112ca1b before,"):
        study(path)
    weights.unlink()
    with pytest.raises(StudyError, match=r"rank 4, seed 1: model\.weights '.*' is no file"):
        study(write(seeds=[0, 1], set={"model.weights": str(weights)}))


def test_runs_that_no_study_made_are_refused(study: Any, write: Write, tmp_path: Path) -> None:
    assert study(write()) == 0
    (tmp_path / "runs" / "rank-4-seed0" / "point.yaml").unlink()
    with pytest.raises(StudyError, match="rank-4-seed0' holds a run that no study made; choose another folder"):
        study(write())


def test_where_the_data_lies_may_change(study: Any, write: Write, tmp_path: Path) -> None:
    assert study(write(seeds=[0]), "--data", "/here", "--features", "/there") == 0
    log = (tmp_path / "runs" / "rank-4-seed0" / "log.txt").read_text()
    assert "--data.init_args.root=/here --data.init_args.features=/there" in log
    assert study(write(seeds=[0])) == 0


def test_a_failed_run_does_not_stop_the_others(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"bad": ADAPTED | {"trainer.act": "die"}, "worse": ADAPTED | {"trainer.act": "vanish"}, "good": {}}
    runs = tmp_path / "runs"
    assert study(write(points=points)) == 1
    assert stages(runs)["good-seed1"] == ["fit", "test"]
    text = capsys.readouterr().out
    assert re.search(r"bad +- +0 of 2 +failed", text)
    why = "fit ended with status 1: ValueError: rank must be positive (a hint)"
    assert f"note: failed: bad, seed 1: {why} ({runs}/bad-seed1/log.txt)" in text
    assert "worse, seed 0: test ended with status 0: it said nothing, and left no results.json" in text
    assert f"failed: bad, seed 0: {why}" in (runs / "study.md").read_text()

    # What failed before it learnt anything may be corrected in place; what failed after it may not.
    corrected = points | {"bad": ADAPTED, "worse": ADAPTED | {"trainer.act": "none"}}
    with pytest.raises(StudyError, match=r"worse-seed0': trainer\.act: 'vanish' before, 'none' now"):
        study(write(points=corrected))
    assert study(write(points=points | {"bad": ADAPTED})) == 1
    assert stages(runs) == {
        f"{run}-seed{seed}": s for seed in (0, 1) for run, s in (("bad", ["fit", "test"]), ("worse", ["test"]))
    }
    assert not (runs / "bad-seed0" / "failure.txt").exists()


def test_a_run_that_diverged_is_a_finding_and_not_tried_again(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"wild": ADAPTED | {"trainer.act": "diverge"}, "good": {}}
    runs = tmp_path / "runs"
    assert study(write(points=points, seeds=[0])) == 0
    assert stages(runs) == {"zero-shot": ["test"], "wild-seed0": ["fit"], "good-seed0": ["fit", "test"]}
    text = capsys.readouterr().out
    why = f"wild, seed 0: fit ended with status 3: error: the loss is nan at step 7 ({runs}/wild-seed0/log.txt)"
    assert f"\ndiverged: {why}" in text and f"note: failed: {why}" in text
    assert re.search(r"wild +- +0 of 1 +failed", text)

    assert study(write(points=points, seeds=[0])) == 0
    assert stages(runs) == {}
    text = capsys.readouterr().out
    assert "2 of 3 runs finished, 1 diverged (not tried again; delete their folders to)" in text
    assert f"note: failed: {why}" in text

    with pytest.raises(StudyError, match=r"wild-seed0': trainer\.act: 'diverge' before, 'none' now"):
        study(write(points=points | {"wild": ADAPTED | {"trainer.act": "none"}}, seeds=[0]))
    shutil.rmtree(runs / "wild-seed0")
    assert study(write(points=points, seeds=[0])) == 0
    assert stages(runs) == {"wild-seed0": ["fit"]}


def test_without_a_baseline_nothing_else_is_run(study: Any, write: Write, tmp_path: Path) -> None:
    frozen = {"model": {"tuner": {"class_path": "ZeroShot"}}, "trainer": {"act": "die"}}
    (tmp_path / "frozen.yaml").write_text(yaml.safe_dump(frozen))
    with pytest.raises(
        StudyError, match=r"nothing to compare with: .*its last attempt failed: test ended with status 1"
    ):
        study(write())
    assert set(stages(tmp_path / "runs")) == {"zero-shot"}


def test_an_unfinished_study_is_shown_as_such(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(write(), "--only", "rank 8", "--seeds", "1") == 0
    assert stages(tmp_path / "runs") == {"zero-shot": ["test"], "rank-8-seed1": ["fit", "test"]}
    text = capsys.readouterr().out
    assert re.search(r"rank 4 +- +0 of 2 +- ", text) and re.search(r"rank 8 +8\.00 k +1 of 2 +\+9\.00 ", text)
    assert "note: INCOMPLETE: 3 of 5 runs are not finished, the first being rank 4, seed 0" in text


def test_a_report_runs_nothing(study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StudyError, match=r"zero-shot/results\.json' is not there yet"):
        study(write(), "--report-only")
    assert study(write()) == 0
    calls(tmp_path / "runs")
    (tmp_path / "runs" / "study.md").unlink()
    capsys.readouterr()
    assert study(write(seeds=[0, 1, 2]), "--report-only") == 0
    assert "2 of 3" in capsys.readouterr().out and calls(tmp_path / "runs") == {}
    assert (tmp_path / "runs" / "study.md").exists()


def test_a_report_needs_no_folder_of_its_own_and_waits_for_nobody(study: Any, write: Write, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"zero-shot/results\.json' is not there yet"):
        study(write(), "--report-only", "--output", str(tmp_path / "tables"))
    assert not (tmp_path / "runs").exists(), "a misspelt folder is not made"
    assert study(write()) == 0
    (tmp_path / "runs" / ".lock").unlink()
    (tmp_path / "runs" / ".lock").mkdir()  # nobody can open it to write, not even the superuser of a test
    assert study(write(), "--report-only", "--output", str(tmp_path / "tables")) == 0
    assert (tmp_path / "tables" / "study.md").exists()


def test_a_quick_study_lies_beside_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert quick_folder(Path("runs/a")) == Path("runs/a-quick")
    assert quick_folder(Path(".")) == tmp_path / "above" / "here-quick"
    assert quick_folder(Path("..")) == tmp_path / "above-quick"


def test_quick_is_marked_everywhere_and_apart(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(write(), "--quick") == 0
    folder = tmp_path / "runs-quick"
    assert set(stages(folder)) == {"zero-shot", "rank-4-seed0", "rank-8-seed0"}
    mark = "QUICK: 1 seed, trainer.max_epochs=1. Two ranks"
    assert capsys.readouterr().out.count(mark) == 2  # as it starts, and over the table
    for name in ("study.md", "study.csv"):
        assert mark in (folder / name).read_text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only", "rank 5"), "the study has no point 'rank 5'; it has 'rank 4', 'rank 8'"),
        (("--seeds", "0", "7"), "the study has no seed 7; it has 0, 1"),
    ],
)
def test_what_the_study_does_not_have_cannot_be_chosen(
    study: Any, write: Write, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        study(write(), *options)


def test_a_report_shows_the_points_that_are_asked_for(study: Any, write: Write, tmp_path: Path) -> None:
    levels = {f"{count} clips": {"data.init_args.clips": count} for count in (25, 50)}
    path, pages = write(levels=levels, seeds=[0]), tmp_path / "pages"
    assert study(path) == 0

    def shown(*only: str) -> str:
        assert study(path, "--report-only", "--output", str(pages), "--only", *only) == 0
        return (pages / "levels.md").read_text()

    both = shown("rank 8")
    assert "| WAS | rank 8 | +7.20 | +7.20 |" in both and "rank 4" not in both
    one = shown("rank 4, 25 clips")
    assert "| WAS | rank 4 |" in one and one.count("| - |") == 3 and "1 of the 4 points of study.yaml are shown" in one
    with pytest.raises(StudyError, match="the study has no point 'rank 5'; it has 'rank 4', 'rank 8'"):
        shown("rank 5")


def test_a_report_of_some_seeds_is_refused(study: Any, write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        study(write(), "--report-only", "--seeds", "0")
    assert "a report shows all seeds: leave out --seeds, or --report-only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "ray", "--jobs", "2"), "leave out --jobs, and say --cpus-per-run"),
        (("--engine", "ray", "--emit"), "leave out --engine ray"),
        (("--engine", "ray", "--part", "zero-shot"), "leave out --engine ray"),
        (("--address", "auto"), "are Ray's: give --engine ray"),
        (("--gpus-per-run", "1"), "are Ray's: give --engine ray"),
        (("--cpus-per-run", "2"), "are Ray's: give --engine ray"),
        (("--emit", "--output", "out"), "write no report: leave out --output"),
    ],
)
def test_options_of_another_engine_are_refused(
    study: Any, write: Write, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        study(write(), *options)
    assert message in capsys.readouterr().err


def test_what_no_search_has_chosen_for_is_not_run(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("rank 8: {trainer.lr: 7}\n")
    path = write(seeds=[0], chosen=[str(chosen)])
    assert study(path) == 0
    assert set(stages(tmp_path / "runs")) == {"zero-shot", "rank-8-seed0"}
    assert "left out, for no search has chosen their settings: rank 4\n" in capsys.readouterr().out
    with pytest.raises(StudyError, match="no search has chosen the settings of rank 4, which would not be compared"):
        study(path, "--only", "rank *")


def test_a_quick_study_runs_what_no_search_has_chosen_for_where_it_is_named(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("rank 8: {trainer.lr: 7}\n")
    path = write(seeds=[0], chosen=[str(chosen)], quick={"seeds": [0]})
    assert study(path, "--quick") == 0
    assert set(stages(tmp_path / "runs-quick")) == {"zero-shot", "rank-8-seed0"}
    assert "left out, for no search has chosen their settings: rank 4\n" in capsys.readouterr().out
    assert study(path, "--quick", "--only", "rank 4") == 0
    assert set(stages(tmp_path / "runs-quick")) == {"rank-4-seed0"}
    assert "left out, for no search" not in capsys.readouterr().out


def test_runs_at_once_share_the_cores(
    study: Any, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "granted_cores", lambda: 8)
    monkeypatch.setattr(launch, "visible_gpus", lambda: ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert study(write(), "--jobs", "3") == 0
    assert calls(tmp_path / "runs")["rank-4-seed0"] == ["fit 2 None", "test 2 None"]
    with pytest.raises(SystemExit):
        study(write(), "--jobs", "0")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_ends_the_processes_and_keeps_the_rest(
    interruptible: None,
    study: Any,
    write: Write,
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    points = {"good": {}, "slow": ADAPTED | {"trainer.act": "hang"}}
    runs = tmp_path / "runs"

    def interrupt() -> None:
        while not (runs / "slow-seed0" / "checkpoints").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    start = time.monotonic()
    assert study(write(points=points, seeds=[0])) == 130
    assert time.monotonic() - start < 20, "the slow run was not waited for"
    assert "the same command goes on from there" in capsys.readouterr().out
    assert (runs / "good-seed0" / "results.json").exists()
    assert not (runs / "slow-seed0" / "failure.txt").exists(), "it was stopped, it did not fail"
    with alone_in_study(runs):  # which a process that still works would hold
        pass


def test_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launch.termination_as_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, "as under nohup"
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_folder_is_for_one_command_at_a_time(study: Any, write: Write, tmp_path: Path) -> None:
    with alone_in_study(tmp_path / "runs"), pytest.raises(StudyError, match="is in use by another study command"):
        study(write())


def test_different_conditions_are_not_compared(study: Any, write: Write, tmp_path: Path) -> None:
    assert study(write()) == 0
    path = tmp_path / "runs" / "rank-4-seed1" / "results.json"
    results = json.loads(path.read_text())
    for change, message in (
        ({"split": "val"}, r"was measured on MiniSTVG val, benchmark seed 0, but the baseline .* on MiniSTVG test, "),
        ({"evaluation_conditions": "matrix"}, "was measured on MiniSTVG test, benchmark seed 0, shown in matrix, but"),
        ({"samples": [{"item_id": "b", "quality": "HQ"}]}, "has 1 samples, which are not the 2 of the baseline"),
        ({"seed": 7}, "has seed 7, but is in the place of seed 1"),
        ({"metrics": {"HQ/m_tIoU": 1.0}}, "lacks HQ/m_vIoU, HQ/vIoU@0.3, HQ/vIoU@0.5, LQ/m_tIoU"),
    ):
        path.write_text(json.dumps(results | change))
        with pytest.raises(StudyError, match=f"^{path} {message}"):
            study(write(), "--report-only")


def test_different_precisions_are_not_compared(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(write()) == 0
    first, second = (tmp_path / "runs" / f"rank-4-seed{seed}" / "results.json" for seed in (0, 1))
    for path, precision in ((first, "32-true"), (second, "bf16-mixed")):
        measured = {"measurement": asdict(Measurement(precision))}
        path.write_text(json.dumps(json.loads(path.read_text()) | measured))
    with pytest.raises(StudyError, match=r"was measured in 32-true, but .*rank-4-seed1/results\.json in bf16-mixed;"):
        study(write(), "--report-only")
    second.write_text(first.read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    assert study(write(), "--report-only") == 0
    assert "zero-shot/results.json, " in (text := capsys.readouterr().out)
    assert "older than the record of precision, and shown with what was measured in 32-true" in text


def test_a_run_that_its_baseline_would_refuse_is_not_begun(study: Any, write: Write, tmp_path: Path) -> None:
    half = {"half": {"trainer.precision": "bf16"}}
    with pytest.raises(StudyError, match=r"half, seed 0 would be tested with trainer\.precision bf16-mixed, but"):
        study(write(points=half))
    assert not calls(tmp_path / "runs")
    with pytest.raises(StudyError, match=r"would be tested with model\.inference two_pass, but the baseline with sing"):
        study(write(points={"twice": {"model.inference": "two_pass"}}))
    assert study(write(points=half | {"full": {"trainer.precision": 32}}, tests={"a": {"trainer.precision": 32}})) == 0


def test_what_a_reader_must_know_is_noted(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study(write()) == 0
    path = tmp_path / "runs" / "rank-4-seed1" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"skipped": 2, "git_commit": "abc"}))
    capsys.readouterr()
    assert study(write(), "--report-only") == 0
    text = capsys.readouterr().out
    assert f"note: {path}: 2 samples left out, for bad videos or by a limit on batches" in text
    assert "note: the runs are of 2 states of the code: commits None, abc" in text


def test_a_study_does_not_load_torch(write: Write, tmp_path: Path) -> None:
    script = (
        "import sys, stvg_nst.study.command; heavy = {'torch', 'lightning', 'torchmetrics'} & set(sys.modules); "
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_run_is_tested_on_every_draw_and_one_lost_result_is_made_anew(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(seeds=[0], tests={"draw 0": {}, "draw 1": {"data.init_args.benchmark_seed": 1}})
    runs = tmp_path / "runs"
    assert study(path) == 0
    log = (runs / "rank-4-seed0" / "log.txt").read_text()
    assert "--data.init_args.benchmark_seed=1" in log
    assert f"--model.baseline {runs}/zero-shot/draw-1/results.json" in log
    assert stages(runs) == {name: ["fit"] for name in ("rank-4-seed0", "rank-8-seed0")}, (
        "tests have folders of their own"
    )
    text = capsys.readouterr().out
    assert "MiniSTVG test, benchmark seeds 0 and 1." in text
    assert re.search(r"rank 8 +8\.00 k +1 of 1 +\+13\.00", text), text  # +8 and +18
    lost = runs / "rank-8-seed0" / "draw-1" / "results.json"
    before = {file: file.stat().st_mtime_ns for file in runs.rglob("results.json")}
    lost.unlink()
    assert study(path) == 0
    after = {file: file.stat().st_mtime_ns for file in runs.rglob("results.json")}
    assert [file for file in before if before[file] != after[file]] == [lost]
    with pytest.raises(StudyError, match=r"test 'draw 1': data\.init_args\.benchmark_seed: 1 before, 2 now"):
        study(write(seeds=[0], tests={"draw 0": {}, "draw 1": {"data.init_args.benchmark_seed": 2}}))


def test_every_grounder_has_its_folder_and_an_absent_one_is_left_out(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "a.safetensors"
    weights.write_text("a")
    grounders = {name: {"model.weights": str(tmp_path / f"{name}.safetensors")} for name in ("a", "b")}
    path = write(seeds=[0], grounders=grounders)
    assert study(path, "--features", "cache") == 0
    text = capsys.readouterr().out
    assert f"left out b: its weights '{tmp_path}/b.safetensors' are not there" in text
    assert "Two ranks, a" in text and "3 runs, 3 to go" in text
    assert "--data.init_args.features=cache/a" in (tmp_path / "runs" / "a" / "rank-4-seed0" / "log.txt").read_text()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {".lock", "a"}
    (tmp_path / "b.safetensors").write_text("b")
    assert study(path, "--output", str(tmp_path / "pages" / "ranks")) == 0
    assert "3 of 6 runs finished, 3 to go" in capsys.readouterr().out
    assert (tmp_path / "pages" / "ranks" / "b" / "study.md").exists()


def test_a_report_on_no_grounder_at_all_is_an_error(study: Any, write: Write, tmp_path: Path) -> None:
    path = write(grounders={"one": {}, "two": {"trainer.lr": 1}})
    with pytest.raises(StudyError, match=r"runs' has no folder of a grounder \(one, two\)"):
        study(path, "--report-only", "--output", str(tmp_path / "tables"))


def test_a_grounder_whose_baseline_fails_stops_no_other(
    study: Any, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grounders = {"a": {"trainer.act": "die"}, "b": {"trainer.act": "none"}}
    with pytest.raises(StudyError, match=r"a/zero-shot/results\.json' is not there yet; its last attempt failed"):
        study(write(seeds=[0], grounders=grounders))
    assert set(stages(tmp_path / "runs" / "a")) == {"zero-shot"}
    assert set(stages(tmp_path / "runs" / "b")) == {"zero-shot", "rank-4-seed0", "rank-8-seed0"}
    assert (tmp_path / "runs" / "b" / "study.md").exists() and "Two ranks, b" in capsys.readouterr().out


def test_a_study_without_any_weights_is_an_error(study: Any, write: Write, tmp_path: Path) -> None:
    grounders = {name: {"model.weights": str(tmp_path / f"{name}.safetensors")} for name in ("a", "b")}
    with pytest.raises(StudyError, match="nothing can be run, for the weights of none of its grounders are there"):
        study(write(grounders=grounders))


def test_a_study_of_levels_draws_its_curves(study: Any, write: Write, tmp_path: Path) -> None:
    levels = {f"{count} clips": {"data.init_args.clips": count} for count in (25, 50)}
    assert study(write(levels=levels), "--only", "rank 8,*", "rank 4, 25*") == 0
    runs = tmp_path / "runs"
    table = (runs / "levels.md").read_text()
    assert "| WAS | rank 4 | +4.10 \u00b1 0.71 | - |" in table and "| WAS | rank 8 | +7.70 \u00b1 0.71 | +7.70" in table
    assert "mean \u00b1 sample standard deviation over seeds" in table and "* INCOMPLETE: " in table
    picture = (runs / "levels.svg").read_text()
    assert "INCOMPLETE" in picture and ">rank 8<" in picture and ">rank 4<" in picture
    rows = list(csv.DictReader((runs / "levels.csv").open()))
    assert {(row["row"], row["level"]) for row in rows} == {
        ("rank 8", "25 clips"),
        ("rank 8", "50 clips"),
        ("rank 4", "25 clips"),
    }


@pytest.mark.parametrize(("rank", "bent"), [(8, False), (64, True)])  # LQ gain is about the rank
def test_the_scale_of_the_curves_bends_only_where_something_lies_far_out(
    study: Any, write: Write, tmp_path: Path, rank: int, bent: bool
) -> None:
    levels = {f"{count} clips": {"data.init_args.clips": count} for count in (25, 50)}
    points = {"low rank": {"model.tuner.init_args.rank": rank}}
    assert study(write(levels=levels, seeds=[0], points=points)) == 0
    assert ("logarithmic beyond" in (tmp_path / "runs" / "levels.svg").read_text()) == bent


def test_marks_of_levels_without_order_are_not_joined(study: Any, write: Write, tmp_path: Path) -> None:
    levels = {kind: {"data.init_args.kind": kind} for kind in ("red", "blue")}

    def drawn(pattern: str, **content: Any) -> int:
        assert study(write(levels=levels, seeds=[0], **content)) == 0
        return len(re.findall(pattern, (tmp_path / "runs" / "levels.svg").read_text()))

    line, mark = r"stroke-width: 1\.2", r"<use [^>]*stroke: #0072b2"
    assert drawn(line, ordered_levels=False) < drawn(line)
    assert drawn(mark, ordered_levels=False) == drawn(mark) > 0
    with pytest.raises(StudyError, match="'ordered_levels' must be true or false, got 'no'"):
        drawn(line, ordered_levels="no")


def test_a_report_can_be_written_elsewhere(study: Any, write: Write, tmp_path: Path) -> None:
    levels = {f"{count} clips": {"data.init_args.clips": count} for count in (25, 50)}
    assert study(write(levels=levels, seeds=[0])) == 0
    pages = tmp_path / "pages" / "ranks"
    reported = {tmp_path / "runs" / path for path in ("study.md", "study.csv", "levels.md", "levels.csv", "levels.svg")}
    expected = {path.name: path.read_text() for path in reported if path.suffix != ".svg"}
    for path in reported:
        path.unlink()
    assert study(write(levels=levels, seeds=[0]), "--report-only", "--output", str(pages)) == 0
    assert {name: (pages / name).read_text() for name in expected} == expected and (pages / "levels.svg").exists()
    assert not any(path.exists() for path in reported), "and not beside the runs as well"


def test_a_report_stands_without_its_picture(
    study: Any, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("matplotlib has no folder for its cache")

    monkeypatch.setattr(reporting, "draw_study", fail)
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "study.svg").write_text("of other results")
    assert study(write()) == 0
    assert sorted(path.name for path in runs.glob("study.*")) == ["study.csv", "study.md"]
    assert [message for message in caplog.messages if "matplotlib" in message] == [
        f"left out {runs}/study.png and {runs}/study.svg, which the run does without: matplotlib has no folder for its "
        "cache"
    ]


def test_the_curves_leave_out_what_has_not_been_run(study: Any, write: Write, tmp_path: Path) -> None:
    levels = {f"{count} clips": {"data.init_args.clips": count} for count in (25, 50)}
    assert study(write(levels=levels), "--only", "rank 8") == 0, "a name without its level stands for all of them"
    picture, table = ((tmp_path / "runs" / f"levels.{suffix}").read_text() for suffix in ("svg", "md"))
    assert ">rank 8<" in picture and ">rank 4<" not in picture and "| WAS | rank 4 | - | - |" in table


def test_the_names_of_points_are_shown_as_they_are(write: Write, tmp_path: Path) -> None:
    (study,) = read_studies(write(points={"rank [/8] :dog:": {}}, seeds=[0]))
    _, (run,) = planned_runs(study, tmp_path)
    screen = io.StringIO()
    with command._Board(Console(file=screen, force_terminal=True, width=200), study, 1, 1) as board:
        board.started(run)
    assert "rank [/8] :dog:, seed 0" in screen.getvalue()


def test_runs_at_once_take_turns_on_the_gpus(
    study: Any, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    assert study(write(seeds=[0]), "--jobs", "2") == 0
    found = calls(tmp_path / "runs")
    assert {found[name][0].split()[-1] for name in ("rank-4-seed0", "rank-8-seed0")} == {"3", "5"}
    assert study(write(seeds=[1])) == 0
    assert calls(tmp_path / "runs")["rank-4-seed1"][0].endswith(" 3, 5"), "one run may use them all"
