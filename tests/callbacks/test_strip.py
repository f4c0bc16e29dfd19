from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from callbacks.strip import draw_strip
from stvg_nst.drawing import FONT, PREDICTED, TRUE, stack_strips, wrap
from stvg_nst.types import ClipInfo, Quality, Tube

MakeClip = Callable[[int, Quality], ClipInfo]
HEIGHT = 160


@pytest.fixture
def info(clip: MakeClip) -> ClipInfo:
    """Six sampled frames 0, 2, ..., 10 of 24 x 32 pixels; the truth covers frames [2, 8)."""
    return clip(0, Quality.LQ)


def grey(info: ClipInfo) -> np.ndarray:
    return np.full((len(info.frame_ids), *info.native_size, 3), 128, dtype=np.uint8)


def panels(strip: np.ndarray, colour: tuple[int, int, int], info: ClipInfo) -> list[int]:
    """Pixels of a colour in each frame of the strip: frames are where the grey is."""
    rows = np.flatnonzero((strip == 128).all(-1).sum(1) > 100)
    picture = strip[rows[0] : rows[-1] + 1]
    columns = np.array_split(np.arange(8, picture.shape[1] - 8), len(info.frame_ids))
    return [int((picture[:, part] == colour).all(-1).sum()) for part in columns]


def test_boxes_are_drawn_on_the_frames_that_their_tube_covers(info: ClipInfo) -> None:
    predicted = Tube(4, 10, info.target.boxes - 2)
    strip = draw_strip(grey(info), info, predicted, height=HEIGHT)
    assert strip.dtype == np.uint8
    assert [count > 0 for count in panels(strip, PREDICTED, info)] == [False, False, True, True, True, False]
    assert [count > 0 for count in panels(strip, TRUE, info)] == [False, True, True, True, False, False]


def test_true_box_is_dashed_and_stays_visible_where_both_agree(info: ClipInfo) -> None:
    strip = draw_strip(grey(info), info, info.target, height=HEIGHT)
    true, predicted = panels(strip, TRUE, info)[2], panels(strip, PREDICTED, info)[2]
    assert 0.2 < true / (true + predicted) < 0.8


@pytest.mark.parametrize("box", [(torch.nan,) * 4, (20.0, 16.0, 4.0, 4.0), (-40.0, 0.0, -67.0, -47.0)])
def test_a_true_box_that_is_none_is_not_drawn(info: ClipInfo, box: tuple[float, ...]) -> None:
    predicted = Tube(2, 8, info.target.boxes.clone())
    info.target.boxes[2] = torch.tensor(box)
    drawn = [count > 0 for count in panels(draw_strip(grey(info), info, predicted, height=HEIGHT), TRUE, info)]
    assert drawn == [False, True, False, True, False, False]


def test_box_lands_on_its_pixels(info: ClipInfo) -> None:
    frames = grey(info)
    frames[2, 4:16, 4:20] = (10, 20, 250)  # the true box of frame 4, as [y0:y1, x0:x1]
    boxes = torch.stack([torch.tensor([0.0, 0.0, 8.0, 8.0]), info.target.boxes[0]])
    strip = draw_strip(frames, info, Tube(3, 5, boxes), height=HEIGHT)  # of which frame 4 is shown
    inside = (np.abs(strip.astype(int) - (10, 20, 250)) < 60).all(-1)
    outline = (strip == PREDICTED).all(-1)
    outline[: np.flatnonzero(inside.any(1))[0] - 10] = False  # the heading
    outline[np.flatnonzero(inside.any(1))[-1] + 10 :] = False  # the time axis
    for axis in (0, 1):
        blue, orange = (np.flatnonzero(mask.any(axis)) for mask in (inside, outline))
        assert abs(blue[0] - orange[0]) <= 4
        assert abs(blue[-1] - orange[-1]) <= 4


def test_spans_are_drawn_to_scale(info: ClipInfo) -> None:
    strip = draw_strip(grey(info), info, Tube(6, 12, info.target.boxes), height=HEIGHT)
    axis = strip[-26:]  # the lanes and the margin below them
    left, right = 8 + 62, strip.shape[1] - 8
    for colour, start, stop in ((TRUE, 2, 8), (PREDICTED, 6, 12)):
        columns = np.flatnonzero((axis == colour).all(-1).any(0))
        assert columns[0] == pytest.approx(left + (right - left) * start / 12, abs=2)
        assert columns[-1] == pytest.approx(left + (right - left) * stop / 12, abs=2)


@pytest.mark.parametrize("seed", range(8))
def test_any_clip_gives_a_picture(info: ClipInfo, seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width, length = (int(x) for x in rng.integers([8, 8, 1], [80, 120, 20]))
    frame_ids = tuple(range(length))
    tubes = []
    for _ in range(2):
        start = int(rng.integers(length))
        stop = int(rng.integers(start, length)) + 1
        # Boxes may leave the frame, by all of their area even, and be empty.
        corners = np.sort(rng.integers(-50, 150, (stop - start, 2, 2)), axis=1)
        tubes.append(Tube(start, stop, torch.from_numpy(corners.reshape(-1, 4)).float()))
    info = dataclasses.replace(
        info, frame_ids=frame_ids, target=tubes[0], native_size=(height, width), native_length=length
    )
    strip = draw_strip(grey(info), info, tubes[1], num_shown=5)
    assert strip.ndim == 3
    assert strip.shape[0] > HEIGHT


def test_frames_of_another_clip_are_refused(info: ClipInfo) -> None:
    with pytest.raises(ValueError, match=r"'item-0' must be \(6, 24, 32, 3\) uint8, got \(5, 24, 32, 3\) uint8"):
        draw_strip(grey(info)[:5], info, info.target)


def test_long_sentence_is_wrapped_and_no_word_is_lost() -> None:
    text = "the man in the dark coat walks to the door and turns around " * 5 + "x" * 200
    lines = wrap(text, 300)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert " ".join(lines).startswith(text.rstrip("x")) and all(FONT.getlength(line) <= 300 for line in lines)


def test_strips_of_different_widths_are_stacked_on_white() -> None:
    stacked = stack_strips([np.zeros((2, 3, 3), np.uint8), np.zeros((1, 5, 3), np.uint8)])
    assert stacked.shape == (3, 5, 3)
    assert (stacked[:2, 3:] == 255).all()
    with pytest.raises(ValueError, match="at least one strip"):
        stack_strips([])
