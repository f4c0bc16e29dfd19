from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from callbacks import ResultsWriter
from callbacks.results_writer import config_hash, git_state
from stvg_nst.report.results import load_results


def test_results_are_complete_and_readable_by_the_report(run: Any) -> None:
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text("seed_everything: 5\n")
    run.test(ResultsWriter())
    results = load_results(run.folder / ResultsWriter.NAME)
    assert (results.method, results.dataset, results.split) == ("GatedTuner", "miniature", "val")
    assert (results.seed, results.benchmark_seed, results.skipped) == (5, 3, 0)
    assert (results.trainable_parameters, results.total_parameters) == (40, 60)
    assert results.versions["degradations"] == "D-test"
    assert results.random_weights
    assert json.loads(results.path.read_text())["degradations"]["golden"] is False
    assert results.wall_seconds > 0
    assert results.metrics["HQ/m_vIoU"] == pytest.approx(100)
    assert results.metrics["LQ/m_vIoU"] == pytest.approx(50)
    assert results.metrics["MQ/m_vIoU"] == pytest.approx(75)
    assert results.sample_keys == {(f"item-{i}", shown) for i in range(3) for shown in ("HQ", "motion_blur:3")}
    assert results.conditions == ("miniature", "val", 3, "mixed")
    extra = json.loads((run.folder / ResultsWriter.NAME).read_text())
    assert extra["machine"] | {"cores": 0, "device": ""} == {
        "accelerator": "cpu",
        "device": "",
        "cores": 0,
        "processes": 1,
    }
    assert extra["data"]["dataset"] == "miniature"
    layer = {"name": "decoder.0", "shape": [4, 4], "rank": 3, "nullity": 1, "leakage": 1e-9, "adapter": "a gate"}
    assert extra["injection"] == [layer]
    assert not list(run.folder.glob(".*")), "nothing half-written stays behind"


def test_two_processes_write_each_sample_once(run: Any) -> None:
    run.test(ResultsWriter(), devices=2, strategy="ddp_fork")
    content = json.loads((run.folder / ResultsWriter.NAME).read_text())
    assert [(sample["item_id"], sample["quality"]) for sample in content["samples"]] == [
        (f"item-{i}", quality) for i in range(3) for quality in ("HQ", "LQ")
    ]
    assert content["metrics"]["MQ/m_vIoU"] == pytest.approx(75)
    assert (content["skipped"], content["machine"]["processes"]) == (0, 2)


def test_samples_that_were_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), limit_test_batches=2)
    content = json.loads((run.folder / ResultsWriter.NAME).read_text())
    assert (len(content["samples"]), content["skipped"]) == (4, 2)


def test_samples_that_the_data_module_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), num_skipped=4)
    content = json.loads((run.folder / ResultsWriter.NAME).read_text())
    assert (len(content["samples"]), content["skipped"]) == (6, 4)


def test_samples_that_any_process_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), limit_test_batches=1, devices=2, strategy="ddp_fork")  # 2 of 3 samples on each
    content = json.loads((run.folder / ResultsWriter.NAME).read_text())
    assert (len(content["samples"]), content["skipped"]) == (4, 2)


def test_existing_results_are_refused_before_any_work(run: Any) -> None:
    run.test(ResultsWriter())
    path = run.folder / ResultsWriter.NAME
    before, steps = path.read_bytes(), run.module.num_test_steps
    with pytest.raises(FileExistsError, match=re.escape(f"'{path}' is there from a finished run; choose another")):
        run.test(ResultsWriter())
    assert (path.read_bytes(), run.module.num_test_steps) == (before, steps)

    run.test(ResultsWriter(overwrite=True), limit_test_batches=1)
    assert len(json.loads(path.read_text())["samples"]) == 2


def test_results_do_not_hinder_a_fit(run: Any) -> None:
    run.test(ResultsWriter())
    run.fit(ResultsWriter())


def test_rehearsal_writes_nothing(run: Any) -> None:
    run.test(ResultsWriter(), fast_dev_run=True)
    assert not (run.folder / ResultsWriter.NAME).exists()


def test_configuration_hash(tmp_path: Path) -> None:
    assert config_hash(tmp_path) is None
    (tmp_path / "test.yaml").write_text("b: 2\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"b: 2\n").hexdigest()
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"a: 1\nb: 2\n").hexdigest()


def test_commit_of_a_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)
    source, untracked = tmp_path / "source.py", tmp_path / "untracked.py"
    source.write_text("a = 1\n")
    untracked.write_text("b = 1\n")
    assert git_state(source) == (None, None)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "source.py")
    assert git_state(source) == (None, None), "no commit yet"
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state(source) == (commit, False)
    source.write_text("a = 2\n")
    assert git_state(source) == (commit, True)
    assert git_state(untracked) == (None, None)
