from __future__ import annotations

import json
import re
from typing import Any

import pytest

from callbacks import ResultsWriter
from stvg_nst.results.conditions import Measurement
from stvg_nst.results.results_file import load_results
from stvg_nst.results.run_folder import RunFile


def test_results_are_complete_and_readable_by_the_report(run: Any) -> None:
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text("seed_everything: 5\n")
    run.test(ResultsWriter())
    results = load_results(run.folder / RunFile.RESULTS)
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
    extra = json.loads((run.folder / RunFile.RESULTS).read_text())
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
    content = json.loads((run.folder / RunFile.RESULTS).read_text())
    assert [(sample["item_id"], sample["quality"]) for sample in content["samples"]] == [
        (f"item-{i}", quality) for i in range(3) for quality in ("HQ", "LQ")
    ]
    assert content["metrics"]["MQ/m_vIoU"] == pytest.approx(75)
    assert (content["skipped"], content["machine"]["processes"]) == (0, 2)


def test_samples_that_were_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), limit_test_batches=2)
    content = json.loads((run.folder / RunFile.RESULTS).read_text())
    assert (len(content["samples"]), content["skipped"]) == (4, 2)


def test_samples_that_the_data_module_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), num_skipped=4)
    content = json.loads((run.folder / RunFile.RESULTS).read_text())
    assert (len(content["samples"]), content["skipped"]) == (6, 4)


def test_samples_that_any_process_left_out_are_counted(run: Any) -> None:
    run.test(ResultsWriter(), limit_test_batches=1, devices=2, strategy="ddp_fork")  # 2 of 3 samples on each
    content = json.loads((run.folder / RunFile.RESULTS).read_text())
    assert (len(content["samples"]), content["skipped"]) == (4, 2)


def test_existing_results_are_refused_before_any_work(run: Any) -> None:
    run.test(ResultsWriter())
    path = run.folder / RunFile.RESULTS
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
    assert not (run.folder / RunFile.RESULTS).exists()


def test_results_say_how_they_were_measured(run: Any) -> None:
    run.test(ResultsWriter(), precision="bf16-mixed")
    found = load_results(run.folder / RunFile.RESULTS)
    assert found.measurement == Measurement("bf16-mixed")
