"""What comes out: numbers that the evaluator reads, a film that a browser plays, a strip."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.footage import open_footage
from datamodules.video import VideoDecodeError, probe, read_frames
from stvg_nst.drawing import PREDICTED
from stvg_nst.evaluation import load_predictions, render_predictions
from stvg_nst.prediction.answer import FROZEN, Answer
from stvg_nst.types import Tube

SIZE = (120, 200)


def answer(*, frames: int = 40, frozen: bool = True, segment: tuple[int, int] | None = None) -> Answer:
    """Of a grey film at 10 frames a second, in which a box moves by 2 pixels a frame from frame 10 to 20."""
    footage = open_footage(np.full((frames, *SIZE, 3), 90, np.uint8), fps=10)
    steps = 2.0 * torch.arange(10.0)
    boxes = torch.stack([20 + steps, torch.full((10,), 30.0), 80 + steps, torch.full((10,), 90.0)], dim=1)
    whole = segment or (0, frames)
    other = None
    if frozen:
        tube = Tube(5, 12, torch.tensor([[100.0, 20, 160, 70]]).expand(7, 4))
        other = Answer("a box moves", tube, 0.25, None, "mini, frozen", "ZeroShot", whole, footage)
    return Answer("a box moves", Tube(10, 20, boxes), 0.5, 0.75, "mini, night", "NST", whole, footage, 0.6, other)


def test_the_numbers_are_one_line_of_json() -> None:
    found = answer()
    line = found.to_json()
    assert "\n" not in line
    said = json.loads(line)
    assert said["seconds"] == [1.0, 2.0] == [*found.seconds] and (said["start"], said["stop"]) == (10, 20)
    assert said["boxes"] == found.boxes.tolist() and said["size"] == [120, 200] and said["fps"] == 10
    assert said["frozen"]["seconds"] == [0.5, 1.2] and "frozen" not in said["frozen"]
    assert (said["confidence"], said["quality"], said["frozen"]["quality"]) == (0.5, 0.75, None)
    assert found.summary() == "1.00 s to 2.00 s (frames 10 to 19), confidence 0.50, degraded (0.75)"
    assert replace(found, degraded_above=0.8).summary().endswith("clean (0.75)")


def test_the_evaluator_reads_it(tmp_path: Path) -> None:
    found = answer()
    (tmp_path / "predictions.json").write_text(render_predictions(found.method, [found.entry("clip/1")]))
    read = load_predictions(tmp_path / "predictions.json")
    assert (read.method, read.item_ids) == ("NST", ("clip/1",))
    np.testing.assert_array_equal(read.tubes.boxes, found.boxes.double().numpy())


def share(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int) -> float:
    return float((np.abs(picture.astype(int) - colour).max(-1) <= tolerance).mean())


def test_the_film_shows_the_box_on_the_tubes_frames_only(tmp_path: Path) -> None:
    found = answer()
    found.draw(tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    scale = 3  # to at least 360 pixels
    assert (info.num_frames, info.fps, info.size[1]) == (40, 10, scale * SIZE[1])
    assert info.size[0] > scale * SIZE[0], "a panel stands below the picture"
    film = read_frames(tmp_path / "out.mp4", range(40))
    pictures, panels = film[:, : scale * SIZE[0]], film[:, scale * SIZE[0] :]
    shown = [share(picture, PREDICTED, 60) > 0.002 for picture in pictures]
    assert shown == [10 <= frame < 20 for frame in range(40)]
    # On frame 15 the left edge of the box lies at 30, the right one at 90.
    columns = np.flatnonzero(np.abs(pictures[15, scale * 60].astype(int) - PREDICTED).max(-1) <= 60) / scale
    assert columns.min() == pytest.approx(30, abs=1.5) and columns.max() == pytest.approx(90, abs=1.5)
    marks = np.abs(panels - np.median(panels, axis=0)).sum(axis=(1, 3)).argmax(axis=1)
    assert (np.diff(marks) > 0).all(), "the mark moves with the time"


def test_the_frozen_answer_is_drawn_where_it_is_asked_for(tmp_path: Path) -> None:
    found = answer()
    found.draw(tmp_path / "both.mp4", compare=True)
    found.strip(tmp_path / "alone.png")
    found.strip(tmp_path / "both.png", compare=True)
    film = read_frames(tmp_path / "both.mp4", range(40))
    assert share(film[7, :360], FROZEN, 60) > 0.002 and share(film[25, :360], FROZEN, 60) == 0
    alone, both = (np.asarray(Image.open(tmp_path / name)) for name in ("alone.png", "both.png"))
    assert share(alone, FROZEN, 0) == 0 < share(both, FROZEN, 0) and share(alone, PREDICTED, 0) > 0
    for draw in (answer(frozen=False).draw, answer(frozen=False).strip):
        with pytest.raises(ValueError, match="there is nothing to compare with"):
            draw(tmp_path / "none.mp4", compare=True)


def test_a_part_of_a_film_is_drawn_alone(tmp_path: Path) -> None:
    found = answer(segment=(8, 30))
    found.draw(tmp_path / "part.mp4")
    found.strip(tmp_path / "part.png")
    film = read_frames(tmp_path / "part.mp4", range(22))
    assert probe(tmp_path / "part.mp4").num_frames == 22
    assert [share(picture[:360], PREDICTED, 60) > 0.002 for picture in film] == [2 <= frame < 12 for frame in range(22)]


def test_a_wrong_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"written as mp4 and must be named so, got .*out\.avi"):
        answer().draw(tmp_path / "out.avi")
    with pytest.raises(ValueError, match=r"written as PNG and must be named \.png, got .*out\.jpg"):
        answer().strip(tmp_path / "out.jpg")
    assert not [*tmp_path.iterdir()]


def test_an_answer_is_not_drawn_over_its_own_film(tmp_path: Path, clip: Path) -> None:
    own = tmp_path / "film.mp4"
    own.write_bytes(clip.read_bytes())
    found = Answer("a", Tube(0, 2, torch.ones(2, 4)), 0.5, None, "mini", "ZeroShot", (0, 32), open_footage(own))
    with pytest.raises(ValueError, match=r"film\.mp4' is an input of this command"):
        found.draw(own)
    (tmp_path / "film.png").symlink_to(own)
    with pytest.raises(ValueError, match=r"film\.png' is an input of this command"):
        found.strip(tmp_path / "film.png")
    assert own.read_bytes() == clip.read_bytes()


def test_a_film_that_has_gone_since_is_told(tmp_path: Path, clip: Path) -> None:
    copy = tmp_path / "film.mp4"
    copy.write_bytes(clip.read_bytes())
    tube = Tube(0, 2, torch.ones(2, 4))
    found = Answer("a", tube, 0.5, None, "mini", "ZeroShot", (0, 32), open_footage(copy))
    copy.unlink()
    with pytest.raises(VideoDecodeError, match="there is no such file"):
        found.draw(tmp_path / "out.mp4")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("size", [(1080, 1920), (1920, 1080), (16, 16), (360, 20)])
def test_films_of_any_shape_are_drawn(tmp_path: Path, size: tuple[int, int]) -> None:
    footage = open_footage(np.zeros((2, *size, 3), np.uint8), fps=2)
    tube = Tube(0, 2, torch.tensor([[1.0, 1, 9, 9]] * 2))
    words = "a sentence that is long enough to need more than a line of a film that is not wide " * 2
    found = Answer(words, tube, 0.5, 0.1, "mini", "ZeroShot", (0, 2), footage)
    found.draw(tmp_path / "out.mp4")
    found.strip(tmp_path / "out.png")
    assert probe(tmp_path / "out.mp4").num_frames == 2
