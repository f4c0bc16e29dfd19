from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks import PredictionsWriter, TubeVisualizer
from callbacks.strip import draw_strip
from callbacks.tube_visualizer import read_tubes
from stvg_nst.drawing import FROZEN
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import Quality


def decoded(event: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(event.encoded_image_string)).convert("RGB"))


def test_validation_shows_each_quality_in_its_own_pixels(run: Any, colours: Any) -> None:
    run.fit(TubeVisualizer(num_clips=2), max_epochs=2)
    events = run.events()
    assert sorted(events.Tags()["images"]) == ["tubes/HQ", "tubes/LQ"]
    for quality, other in ((Quality.HQ, Quality.LQ), (Quality.LQ, Quality.HQ)):
        images = events.Images(f"tubes/{quality.name}")
        assert [image.step for image in images] == [3, 6], "none for the sanity check"
        picture = decoded(images[-1])
        assert (picture == colours[quality]).all(-1).mean() > 0.3
        assert not (picture == colours[other]).all(-1).any()


def test_number_of_items_is_kept(run: Any, clip: Any, colours: Any) -> None:
    run.test(TubeVisualizer(num_clips=2))
    info = clip(0, Quality.HQ)
    pixels = np.zeros((len(info.frame_ids), *info.native_size, 3), np.uint8)
    strip = draw_strip(pixels, info, info.target)
    saved = np.asarray(Image.open(run.folder / RunFile.TUBES))
    assert saved.shape == (4 * strip.shape[0], strip.shape[1], 3)
    bright = [(part == colours[Quality.HQ]).all(-1).any() for part in np.split(saved, 4)]
    assert bright == [True, False, True, False], "HQ above LQ, item by item"


def test_test_has_tags_of_its_own(run: Any) -> None:
    run.test(TubeVisualizer(num_clips=1))
    assert sorted(run.events().Tags()["images"]) == ["tubes_test/HQ", "tubes_test/LQ"]


def test_rehearsal_draws_but_saves_nothing(run: Any) -> None:
    run.test(TubeVisualizer(), fast_dev_run=True)
    assert not (run.folder / RunFile.TUBES).exists()


def test_numbers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="must be at least 1, got 0 and 8"):
        TubeVisualizer(num_clips=0)


def test_what_the_baseline_answered_is_drawn_too(run: Any, clip: Any) -> None:
    baseline = type(run)(run.folder.parent / "frozen")
    baseline.test(PredictionsWriter())
    frozen = baseline.folder
    run.module.baseline = SimpleNamespace(path=frozen / RunFile.RESULTS, metrics={})
    run.test(TubeVisualizer(num_clips=1))
    saved = np.asarray(Image.open(run.folder / RunFile.TUBES))
    assert (saved == FROZEN).all(-1).any()

    (frozen / RunFile.PREDICTIONS).unlink()
    run.test(TubeVisualizer(num_clips=1))
    saved = np.asarray(Image.open(run.folder / RunFile.TUBES))
    assert not (saved == FROZEN).all(-1).any(), "without its predictions the picture is as without a baseline"


def test_tubes_of_a_file_are_found_by_item_and_condition(run: Any, clip: Any) -> None:
    run.test(PredictionsWriter())
    wanted = {("item-1", "motion_blur:3"), ("item-9", "HQ")}
    (tube,) = read_tubes(run.folder / RunFile.PREDICTIONS, wanted).values()
    assert (tube.start, tube.stop) == (4, 10) and tube.boxes.shape == (6, 4)
