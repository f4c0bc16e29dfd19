from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks import PredictionsWriter, ResultsWriter
from callbacks.predictions_writer import _true
from stvg_nst.evaluation import Evaluation, evaluate, load_ground_truth, load_predictions
from stvg_nst.module import Answers
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import Batch, Quality, Tube
from tests.callbacks.conftest import make_clip


def evaluation_of(folder: Path) -> Evaluation:
    return evaluate(
        load_predictions(folder / RunFile.PREDICTIONS),
        load_ground_truth(folder / RunFile.GROUND_TRUTH),
    )


def test_files_say_what_was_shown_and_answered(run: Any) -> None:
    run.test(PredictionsWriter())
    predictions = load_predictions(run.folder / "predictions.json")
    assert predictions.method == "GatedTuner"
    items = ("item-0", "item-0", "item-1", "item-1", "item-2", "item-2")
    assert (predictions.item_ids, predictions.conditions) == (items, ("HQ", "motion_blur:3") * 3)
    assert predictions.tubes.start.tolist() == [2, 4] * 3 and predictions.tubes.stop.tolist() == [8, 10] * 3
    ground_truth = load_ground_truth(run.folder / "ground_truth.json")
    assert (ground_truth.dataset, ground_truth.split) == ("miniature", "val")
    assert ground_truth.item_ids == ("item-0", "item-1", "item-2")
    assert ground_truth.conditions == (("HQ", "motion_blur:3"),) * 3
    assert ground_truth.sentence_types == ("declarative",) * 3
    sampled = ground_truth.sampled_frames[0]
    assert sampled is not None and sampled.tolist() == [0, 2, 4, 6, 8, 10]
    np.testing.assert_array_equal(ground_truth.tubes.boxes, [[4, 4, 20, 16]] * 18)
    assert not list(run.folder.glob(".*")), "nothing half-written stays behind"


def test_sentences_about_one_video_share_a_clip_whatever_they_are_called() -> None:
    clips = {name: replace(make_clip(0, Quality.HQ), item_id=name, video=f"{name[0]}.mp4") for name in ("a", "a2", "b")}
    entries = list(_true({(name, "HQ"): (clip, clip.target, None) for name, clip in clips.items()}))
    assert [(entry["item_id"], entry.get("clip")) for entry in entries] == [("a", None), ("a2", "a"), ("b", None)]


def test_evaluation_of_the_files_gives_the_results(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)

    def guess(batch: Batch, batch_idx: int) -> Answers:
        """Random tubes, whose float32 coordinates no short decimal writes."""
        tubes = []
        for _ in batch.clips:
            start, length = torch.randint(1, 6, (2,), generator=generator).tolist()
            corners = 24 * torch.rand(length, 2, 2, generator=generator)
            tubes.append(Tube(start, start + length, corners.sort(dim=1).values.flatten(1)))
        run.module.metrics.update(tubes, batch.clips)
        return {"tubes": tuple(tubes), "verdicts": None}

    monkeypatch.setattr(run.module, "test_step", guess)
    run.test(PredictionsWriter(), ResultsWriter())
    results = json.loads((run.folder / "results.json").read_text())
    counted = evaluation_of(run.folder).protocols["half_open"].metrics
    assert 0 < results["metrics"]["LQ/m_vIoU"] < results["metrics"]["LQ/m_tIoU"] < 100
    for name, value in results["metrics"].items():
        assert np.float32(counted[name]) == pytest.approx(value, rel=2e-7), name  # the metric's tensors are float32
    # The samples' own numbers are float64 in both.
    for quality in ("HQ", "LQ"):
        for metric, field in (("m_tIoU", "tIoU"), ("m_vIoU", "vIoU")):
            exact = 100 * np.mean([s[field] for s in results["samples"] if s["quality"] == quality])
            assert counted[f"{quality}/{metric}"] == pytest.approx(exact, abs=1e-12)


def test_verdicts_on_the_quality_are_in_both_records(run: Any) -> None:
    run.test(PredictionsWriter(), ResultsWriter())
    found = evaluation_of(run.folder)
    assert found.separation["LQ"] == 1.0
    samples = json.loads((run.folder / "results.json").read_text())["samples"]
    assert {(s["quality"], s["verdict"]) for s in samples} == {("HQ", 0.25), ("LQ", 0.75)}


def test_two_processes_write_each_tube_once(run: Any) -> None:
    run.test(PredictionsWriter())
    one = evaluation_of(run.folder)
    run.test(PredictionsWriter(overwrite=True), devices=2, strategy="ddp_fork")
    assert evaluation_of(run.folder) == one and one.coverage.samples == 6


def test_existing_files_are_refused_before_any_work(run: Any) -> None:
    run.test(PredictionsWriter())
    (run.folder / "predictions.json").unlink()
    steps = run.module.num_test_steps
    path = run.folder / "ground_truth.json"
    with pytest.raises(FileExistsError, match=re.escape(f"'{path}' is there from a finished run; choose another")):
        run.test(PredictionsWriter())
    assert run.module.num_test_steps == steps
    run.test(PredictionsWriter(overwrite=True), limit_test_batches=1)
    assert evaluation_of(run.folder).coverage.samples == 2


def test_neither_a_fit_nor_a_rehearsal_writes(run: Any) -> None:
    run.fit(PredictionsWriter())
    run.test(PredictionsWriter(), fast_dev_run=True)
    assert not list(run.folder.glob("*.json"))


def test_frames_that_are_taken_out_are_null_and_the_files_give_the_results(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_frame_taken_out(batch: Batch, batch_idx: int) -> Answers:
        tubes = tuple(Tube(4, 10, clip.target.boxes.clone()) for clip in batch.clips)
        for clip in batch.clips:
            clip.target.boxes[3] = torch.nan
        run.module.metrics.update(tubes, batch.clips)
        return {"tubes": tubes, "verdicts": None}

    monkeypatch.setattr(run.module, "test_step", with_a_frame_taken_out)
    run.test(PredictionsWriter(), ResultsWriter())
    truth = json.loads((run.folder / "ground_truth.json").read_text())
    assert truth["bad_boxes"] == "skip_frame" and truth["tubes"][0]["boxes"][3] is None
    results = json.loads((run.folder / "results.json").read_text())
    assert results["policies"]["on_bad_box"]["touched"] == {"val": {"sentences": 2, "clips": 1, "frames": 7}}
    assert results["metrics"]["HQ/m_tIoU"] == pytest.approx(100 * 3 / 7)
    evaluation = evaluation_of(run.folder)
    assert evaluation.protocols["half_open"].metrics["HQ/m_tIoU"] == pytest.approx(100 * 3 / 7)
    assert evaluation.frames_taken_out == 3
