"""A run of a study, compared with what its folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stvg_nst.study.launch import Launcher
from stvg_nst.study.ray_engine import _bring_to_end
from stvg_nst.study.runs import RunTest, StudyRun


@pytest.mark.parametrize(
    ("kept", "changes"),
    [
        ({"rank": 64, "basis": "learned", "null_branch": False}, []),
        ({"rank": 8, "basis": "learned", "null_branch": False}, ["model.tuner.init_args.rank: 8 before, 64 now"]),
    ],
)
def test_a_gated_adapter_that_is_kept_by_its_options_is_no_other_method(
    tmp_path: Path, kept: dict[str, Any], changes: list[str]
) -> None:
    def config(name: str, options: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"tuner": {"class_path": f"stvg_nst.tuning.{name}", "init_args": options}}}

    run = StudyRun("gate only", 0, tmp_path, config("GatedAdapter", {"rank": 64}), (), None, ())
    run.adapter.touch()
    run.weights_file.touch()
    run.config_file.write_text(yaml.safe_dump(config("NullSpaceTuning", kept)))
    assert run.changes() == changes
    run.config_file.write_text(yaml.safe_dump(config("NullSpaceTuning", {"rank": 64, "basis": "learned"})))
    assert len(run.changes()) == 2


def test_a_baseline_is_the_same_however_the_points_are_trained(tmp_path: Path) -> None:
    config = {"model": {"optimizer": {"class_path": "AdamW"}, "warmup_steps": 20}, "trainer": {"max_epochs": 4}}
    run = StudyRun(None, None, tmp_path, config, (), None, ())
    run.adapter.touch()
    run.weights_file.touch()
    run.config_file.write_text(yaml.safe_dump({"trainer": {"devices": 1}}))
    assert run.changes() == ["trainer.devices: 1 before, 'absent' now"]


def test_what_a_run_shows_of_itself_is_no_part_of_its_configuration(tmp_path: Path) -> None:
    def config(*callbacks: str) -> dict[str, Any]:
        return {"trainer": {"max_epochs": 4, "callbacks": [{"class_path": name} for name in callbacks]}}

    run = StudyRun("nst", 0, tmp_path, config("callbacks.RunProgress", "callbacks.MovingAverage"), (), None, ())
    run.adapter.touch()
    run.weights_file.touch()
    run.config_file.write_text(
        yaml.safe_dump(config("lightning.pytorch.callbacks.RichProgressBar", "callbacks.MovingAverage"))
    )
    assert run.changes() == []
    run.config_file.write_text(yaml.safe_dump(config("lightning.pytorch.callbacks.RichProgressBar")))
    assert len(run.changes()) == 1, "an average decides what is trained"


def test_a_task_that_is_given_out_again_after_its_end_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ray, where a worker is lost after its run has left its results, or has diverged."""
    monkeypatch.chdir(tmp_path)
    run = StudyRun("rank 4", 0, tmp_path, {}, (RunTest("", tmp_path, {}, None),), None, ())
    run.divergence.write_text("the loss is no number\n")
    launcher = Launcher(1, None, ("no", "program"))
    assert _bring_to_end(run, launcher, str(tmp_path)) == (0.0, f"the loss is no number ({run.log})")
    run.tests[0].results.touch()
    assert _bring_to_end(run, launcher, str(tmp_path)) == (0.0, None)


def test_results_of_tests_that_a_study_had_before_are_no_blank_sheet(tmp_path: Path) -> None:
    """What they were measured with would be written over, and they taken for its own once they are asked for again."""

    def baseline(weight: int) -> StudyRun:
        return StudyRun(None, None, tmp_path, {"model": {"bias": weight}}, (RunTest("", tmp_path, {}, None),), None, ())

    baseline(1).write_config()
    assert baseline(2).changes() == [], "nothing is measured yet"
    (tmp_path / "draw-0").mkdir()
    (tmp_path / "draw-0" / "results.json").touch()
    assert baseline(1).changes() == [] and baseline(2).changes() == ["model.bias: 1 before, 2 now"]
