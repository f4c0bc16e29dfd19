"""A film in windows: all of it is covered, the most confident answer is taken, and what a border cuts is joined."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stvg_nst.prediction.windows import Finding, best_finding, cut_windows
from stvg_nst.types import Tube


@given(st.integers(0, 1000), st.integers(1, 5000), st.floats(1, 60), st.floats(0.5, 30), st.floats(0, 0.9))
def test_windows_cover_the_segment_evenly(start: int, frames: int, fps: float, seconds: float, share: float) -> None:
    if round(seconds * fps) < 2 or round(seconds * share * fps) >= round(seconds * fps):
        return
    windows = cut_windows((start, start + frames), fps, seconds, seconds * share)
    spans = [window.segment for window in windows]
    assert spans[0][0] == start and spans[-1][1] == start + frames
    if len(spans) == 1:
        assert frames <= 1.1 * round(seconds * fps)
        return
    length = round(seconds * fps)
    assert {stop - first for first, stop in spans} == {length}
    steps = [later - earlier for (earlier, _), (later, _) in pairwise(spans)]
    assert max(steps) - min(steps) <= 1 and min(steps) > 0
    assert max(steps) <= length - round(seconds * share * fps) + 1, "neighbours share what was asked for"


def test_a_part_that_is_hardly_longer_is_shown_at_once() -> None:
    assert [window.segment for window in cut_windows((0, 110), 10, 10, 5)] == [(0, 110)]
    assert [window.segment for window in cut_windows((0, 111), 10, 10, 5)] == [(0, 100), (11, 111)]


@pytest.mark.parametrize(
    ("seconds", "overlap", "message"),
    [
        (float("inf"), 0, "expected a number of seconds, got a window of inf and an overlap of 0"),
        (4, float("nan"), "got a window of 4 and an overlap of nan"),
        (0.1, 0, "a window must hold two frames at least, got 0.1 s at 10"),
        (2, 2, "got 2 s of 2 s"),
        (2, -1, "got -1 s"),
    ],
)
def test_impossible_windows_are_refused(seconds: float, overlap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_windows((0, 100), 10, seconds, overlap)


def path(start: int, stop: int, *, left: float = 0.0) -> Tube:
    """An object that moves by a pixel a frame: wherever it is seen, its box is the same."""
    frames = torch.arange(start, stop, dtype=torch.float32)
    return Tube(start, stop, torch.stack([left + frames, frames, left + frames + 40, frames + 40], dim=1))


def finding(begin: int, tube: Tube, confidence: float, quality: float | None = None) -> Finding:
    """In a window of 40 frames, every fourth of which was shown, and the last."""
    return Finding((*range(begin, begin + 40, 4), begin + 39), tube, confidence, quality)


def test_the_most_confident_window_answers() -> None:
    findings = [finding(0, path(5, 20), 0.2, 0.1), finding(20, path(30, 45), 0.9, 0.8), finding(40, path(50, 60), 0.9)]
    best = best_finding(findings)
    assert (best.tube.start, best.tube.stop, best.confidence, best.quality) == (30, 45, 0.9, 0.8)
    assert torch.equal(best.tube.boxes, path(30, 45).boxes)


@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_tube_that_borders_cut_is_joined(best: int) -> None:
    """From frame 10 to 70, seen in three windows of 40 frames, of which any may be the most confident."""
    parts = [finding(0, path(10, 40), 0.5), finding(20, path(20, 60), 0.5), finding(40, path(41, 70), 0.5)]
    parts[best] = finding(20 * best, parts[best].tube, 0.9)
    joined = best_finding(parts).tube
    assert (joined.start, joined.stop) == (10, 70)
    torch.testing.assert_close(joined.boxes, path(10, 70).boxes)


def test_between_two_windows_boxes_pass_from_the_one_to_the_other() -> None:
    joined = best_finding([finding(0, path(10, 40), 0.9), finding(20, path(20, 50, left=3), 0.5)]).tube
    shift = joined.boxes[:, 0] - path(10, 50).boxes[:, 0]
    assert shift[:10].eq(0).all() and shift[30:].eq(3).all()
    assert (shift.diff() >= 0).all() and shift.diff().max() < 0.2


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (path(20, 50, left=80), "another object"),
        (path(42, 50), "at another time"),
    ],
)
def test_another_tube_is_not_joined(other: Tube, why: str) -> None:
    best = best_finding([finding(0, path(10, 40), 0.9), finding(20, other, 0.5)]).tube
    assert (best.start, best.stop) == (10, 40), why


def test_a_tube_that_ends_within_its_window_is_whole() -> None:
    """The window has seen what came after: another one does not know better."""
    findings = [finding(0, path(10, 30), 0.9), finding(20, path(22, 50), 0.5)]
    assert best_finding(findings).tube.stop == 30


def test_a_part_may_lie_within_the_other() -> None:
    joined = best_finding([finding(0, path(10, 40), 0.9), finding(20, path(22, 30), 0.5)]).tube
    assert (joined.start, joined.stop) == (10, 40)
    torch.testing.assert_close(joined.boxes, path(10, 40).boxes)


def test_a_window_of_one_frame_is_no_trouble() -> None:
    only = Finding((7,), path(7, 8), 0.1, None)
    assert best_finding([only]).tube.start == 7
