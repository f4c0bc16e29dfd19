"""What a test has found stands whatever comes after it, and what would keep it from being written is said before it."""

from __future__ import annotations

import errno
import itertools
import json
import logging
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image

from callbacks import AdapterCheckpoint, MovingAverage, PredictionsWriter, ResultsWriter, TubeVisualizer
from callbacks.keeper import go_first
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import ClipInfo

FILES = {"results.json", "predictions.json", "ground_truth.json"}


class Breaks(lightning.Callback):
    """A callback of a user's own, which raises in one hook."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self._fail)

    def _fail(self, *arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError("a user's own fault")


def data_without_videos(run: Any, error: Exception, item_id: str | None = None) -> Any:
    """The miniature's data, whose pixels cannot be shown: of one item, or of all."""
    data = run.data()
    sound = data.pixels

    def pixels(info: ClipInfo) -> np.ndarray:
        if item_id in (None, info.item_id):
            raise error
        return sound(info)

    data.pixels = pixels
    return data


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & FILES


@pytest.mark.parametrize("hook", ["on_test_epoch_end", "on_test_end", "teardown"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_findings_stand_when_another_callback_fails(run: Any, hook: str, place: int) -> None:
    callbacks: list[lightning.Callback] = [ResultsWriter(), PredictionsWriter()]
    callbacks.insert(place, Breaks(hook))
    with pytest.raises(ZeroDivisionError):
        run.test(*callbacks)
    assert written(run.folder) == FILES
    assert json.loads((run.folder / "results.json").read_text())["metrics"]["HQ/m_vIoU"] == pytest.approx(100)


@pytest.mark.parametrize("hook", ["on_test_epoch_end", "on_test_end"])
def test_findings_stand_when_the_module_itself_fails(run: Any, hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.module, hook, Breaks(hook)._fail)
    with pytest.raises(ZeroDivisionError):
        run.test(PredictionsWriter(), ResultsWriter())
    assert written(run.folder) == FILES


def test_tubes_stand_when_they_cannot_be_counted(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.module.metrics, "compute", Breaks("compute")._fail)
    with pytest.raises(ZeroDivisionError):
        run.test(ResultsWriter(), PredictionsWriter())
    assert written(run.folder) == {"predictions.json", "ground_truth.json"}


def test_two_processes_keep_what_was_found(run: Any) -> None:
    trainer = run.trainer(TubeVisualizer(), ResultsWriter(), PredictionsWriter(), devices=2, strategy="ddp_fork")
    trainer.test(run.module, datamodule=data_without_videos(run, OSError("no such video")), verbose=False)
    assert written(run.folder) == FILES


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("no such video"),
        PermissionError("not yours"),
        RuntimeError("cannot decode"),  # VideoDecodeError is one
        ValueError("frames of another size"),
        ImportError("libavcodec.so: cannot open shared object file"),
        MemoryError("no memory"),
    ],
)
def test_a_fit_and_a_test_go_on_without_pictures(run: Any, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run.trainer(TubeVisualizer(), max_epochs=3).fit(run.module, datamodule=data_without_videos(run, error))
    assert caplog.messages == [f"left out pictures of tubes, which the run does without: {error}"]
    trainer = run.trainer(TubeVisualizer(), ResultsWriter(), PredictionsWriter())
    trainer.test(run.module, datamodule=data_without_videos(run, error), verbose=False)
    assert written(run.folder) == FILES
    assert not (run.folder / RunFile.TUBES).exists()


def test_only_the_item_whose_video_is_gone_is_not_shown(run: Any) -> None:
    data = data_without_videos(run, FileNotFoundError("no such video"), "item-1")
    run.trainer(TubeVisualizer()).test(run.module, datamodule=data, verbose=False)
    height = Image.open(run.folder / RunFile.TUBES).height
    run.test(TubeVisualizer())
    assert Image.open(run.folder / RunFile.TUBES).height * 2 == height * 3, "two items of three"


def test_a_picture_of_an_earlier_test_does_not_stay(run: Any) -> None:
    run.test(TubeVisualizer())
    data = data_without_videos(run, FileNotFoundError("no such video"))
    run.trainer(TubeVisualizer()).test(run.module, datamodule=data, verbose=False)
    assert not (run.folder / RunFile.TUBES).exists()


def test_what_json_cannot_hold_is_refused_before_any_work(run: Any) -> None:
    data = run.data()
    data.degradations = lambda: {"golden": float("nan")}
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.trainer(ResultsWriter()).test(run.module, datamodule=data, verbose=False)
    assert run.module.num_test_steps == 0


def full_disk(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", full_disk)
    for writer in (ResultsWriter(), PredictionsWriter()):
        with pytest.raises(OSError, match=r"run' cannot be written to \(No space left on device\); make room, or"):
            run.test(writer, logger=False)
    assert run.module.num_test_steps == 0


def test_a_disk_without_room_is_refused_before_any_work(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=200_000))
    run.test(ResultsWriter())  # takes some thousands of bytes
    with pytest.raises(OSError, match=r"the run leaves about 0 MB in '.*run', where 0 MB are free; make room"):
        run.test(PredictionsWriter(), logger=False)


def test_two_processes_refuse_alike(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(Exception, match="make room, or choose another folder with --run"):
        run.test(ResultsWriter(), devices=2, strategy="ddp_fork", logger=False)


def test_keepers_go_first_in_whatever_order_they_are_named() -> None:
    callbacks = [MovingAverage(), Breaks("on_test_end"), ResultsWriter(), AdapterCheckpoint(), PredictionsWriter()]
    for order in itertools.permutations(callbacks):
        trainer: Any = SimpleNamespace(callbacks=list(order))
        go_first(trainer)
        *keepers, results, _, _ = trainer.callbacks
        assert {type(keeper) for keeper in keepers} == {AdapterCheckpoint, PredictionsWriter}
        assert isinstance(results, ResultsWriter)


def test_the_average_is_kept_wherever_it_is_named(run: Any) -> None:
    average, found = MovingAverage(decay=0.9), []

    class Notes(AdapterCheckpoint):
        def _save(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, name: str) -> None:
            values = dict(pl_module.named_parameters())
            found.append(all(torch.equal(values[key], kept) for key, kept in average._averages.items()))

    run.fit(average, Notes())
    assert found == [True, True], "after the validation, and at the end"
