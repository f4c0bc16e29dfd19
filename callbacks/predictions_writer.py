"""``predictions.json`` and ``ground_truth.json``: every tube of a test, for any evaluator to count again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isnan
from typing import Any

import lightning
import torch

from callbacks.record_writer import RecordWriter
from callbacks.run import grounding_data, grounding_module, leaves_files, run_folder
from stvg_nst.evaluation import render_ground_truth, render_predictions
from stvg_nst.evaluation.bootstrap import shared_clips
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import Batch, ClipInfo, Tube

Answers = dict[tuple[str, str], tuple[ClipInfo, Tube, float | None]]
"""Clip, predicted tube and, of a tuner with a router, its verdict on the quality, by item id and condition."""


class PredictionsWriter(RecordWriter):
    """Writes what was predicted and what was true into the run's folder as soon as the last batch of a test is scored.

    ``python -m stvg_nst evaluate`` on the two files gives the numbers of ``results.json``, to the float32 in which it
    holds them, and those of the field's other protocols. Coordinates are written exactly.

    Args:
        overwrite: replace the files of an earlier test.
    """

    FILES = (RunFile.PREDICTIONS, RunFile.GROUND_TRUTH)
    TURN = 0  # before anything is counted: the tubes are kept even where the count fails
    BYTES_PER_SAMPLE = 64_000  # two tubes of 20 s at 20 frames a second

    def __init__(self, *, overwrite: bool = False) -> None:
        super().__init__(overwrite=overwrite)
        self._answers: Answers = {}

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_test_start(trainer, pl_module)
        self._answers = {}

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        verdicts = outputs["verdicts"] or [None] * len(batch)
        for clip, tube, verdict in zip(batch.clips, outputs["tubes"], verdicts, strict=True):
            self._answers[clip.item_id, clip.condition] = clip, tube, verdict

    def on_test_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.world_size > 1:
            parts: list[Answers] = [{} for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._answers)
            # A sampler that repeats samples to even out its shards repeats keys, too.
            self._answers = {key: answer for part in parts for key, answer in part.items()}
        if leaves_files(trainer):
            self._write(trainer, type(grounding_module(pl_module).tuner).__name__)
        self._answers = {}

    def _write(self, trainer: lightning.Trainer, method: str) -> None:
        answers = {key: self._answers[key] for key in sorted(self._answers)}
        data = grounding_data(trainer)
        measured = data.conditions("test")
        bad_boxes = data.policies().get("on_bad_box", {}).get("policy", "refuse")
        truth = render_ground_truth(measured.dataset, measured.split, _true(answers), bad_boxes=bad_boxes)
        predictions = render_predictions(method, _predicted(answers))
        folder = run_folder(trainer)
        write_whole(folder / RunFile.PREDICTIONS, predictions.encode())
        write_whole(folder / RunFile.GROUND_TRUTH, truth.encode())


def _predicted(answers: Answers) -> Iterator[dict[str, Any]]:
    for (item_id, condition), (_, tube, verdict) in answers.items():
        said = {} if verdict is None else {"verdict": verdict}
        yield {"item_id": item_id, "condition": condition, **said, **_span(tube)}


def _true(answers: Answers) -> Iterator[dict[str, Any]]:
    """One entry an item, with every condition in which it was shown."""
    clips: Mapping[str, ClipInfo] = {item_id: clip for (item_id, _), (clip, _, _) in answers.items()}
    shared = shared_clips({item_id: clip.video for item_id, clip in clips.items()})
    conditions: dict[str, list[str]] = {}
    for item_id, condition in answers:
        conditions.setdefault(item_id, []).append(condition)
    for item_id, clip in clips.items():
        yield {
            "item_id": item_id,
            "sentence_type": clip.sentence_type,
            "conditions": conditions[item_id],
            "sampled_frames": list(clip.frame_ids),
            **({"clip": shared[item_id]} if item_id in shared else {}),
            **_span(clip.target),
        }


def _span(tube: Tube) -> dict[str, Any]:
    boxes = [None if isnan(box[0]) else box for box in tube.boxes.double().tolist()]
    return {"start": tube.start, "stop": tube.stop, "boxes": boxes}
