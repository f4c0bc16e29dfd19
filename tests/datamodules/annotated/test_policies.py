"""Bad boxes and short clips under each policy, one annotation at a time and many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.annotated import Annotation, AnnotationError
from datamodules.annotated.policies import POLICIES, bad_boxes, fit_to_clip, fit_to_frame, lacking_frames
from datamodules.annotated.touched import Survey, Touched, fit_annotations
from datamodules.data_sets import open_source
from datamodules.hcstvg.format import read_hcstvg
from datamodules.vidstg.format import read_sentences
from tests.datamodules.published import hcstvg_item, merged_item, vidor_file, vidstg_item, write_json

GOOD = [4.0, 6.0, 20.0, 30.0]
# x, y, w, h in a frame of 64 x 48; what of it clip leaves, xyxy.
BAD = [
    pytest.param([-40, 0, -27, -47], [0, 0, 0, 0], id="negative size, outside"),
    pytest.param([50, 40, -10, -10], [50, 40, 50, 40], id="negative size, inside"),
    pytest.param([50, 10, -10, 8], [50, 10, 50, 18], id="negative width"),
    pytest.param([-3, -2, 10, 12], [0, 0, 7, 10], id="negative corner"),
    pytest.param([50, 10, 15, 20], [50, 10, 64, 30], id="a pixel beyond the right"),
    pytest.param([10, 40, 15, 9], [10, 40, 25, 48], id="a pixel beyond the bottom"),
    pytest.param([70, 10, 15, 20], [64, 10, 64, 30], id="wholly outside"),
    pytest.param([10, 10, 0, 20], [10, 10, 10, 30], id="no width"),
    pytest.param([10, 10, 0, 0], [10, 10, 10, 10], id="a point"),
    pytest.param([-5, -5, 100, 100], [0, 0, 64, 48], id="larger than the frame"),
]


def hcstvg(folder: Path, **changes: Any) -> Annotation:
    (found,) = read_hcstvg(write_json(folder / "a.json", {"a.mp4": hcstvg_item(**changes)})).annotations
    return found


@pytest.mark.parametrize(("box", "cut"), BAD)
def test_a_bad_box_under_each_policy(tmp_path: Path, box: list[float], cut: list[float]) -> None:
    found = hcstvg(tmp_path, bbox=[GOOD, GOOD, box])
    assert bad_boxes(found).tolist() == [False, False, True]
    way_out = r"'bbox\[2\]': expected a box with an area within the frame of 64 x 48 .*on_bad_box clip\|as_published\|s"
    with pytest.raises(AnnotationError, match=way_out):
        fit_to_frame(found, "refuse")
    x, y, w, h = box
    for policy, expected in (("clip", cut), ("as_published", [x, y, x + w, y + h]), ("skip_frame", [np.nan] * 4)):
        fitted = fit_to_frame(found, policy)  # type: ignore[arg-type]
        assert fitted.boxes is not None and fitted.boxes.dtype == np.float32
        np.testing.assert_array_equal(fitted.boxes, [[4, 6, 24, 36], [4, 6, 24, 36], expected])
        assert (fitted.start, fitted.stop, fitted.segment) == (found.start, found.stop, found.segment)


@pytest.mark.parametrize("policy", POLICIES)
def test_boxes_that_touch_the_border_are_sound(tmp_path: Path, policy: Any) -> None:
    found = hcstvg(tmp_path, bbox=[[0, 0, 64, 48], [63, 47, 1, 1]])
    assert fit_to_frame(found, policy) is found


def test_a_tube_of_bad_boxes_only(tmp_path: Path) -> None:
    found = hcstvg(tmp_path, bbox=[[10, 10, 0, 20]] * 3)
    way_out = r"for skip_frame to keep, got none; choose .*clip\|as_published, or leave out .*on_bad_video skip"
    with pytest.raises(AnnotationError, match=way_out):
        fit_to_frame(found, "skip_frame")
    kept = fit_to_frame(found, "clip").boxes
    assert kept is not None and kept.tolist() == [[10, 10, 10, 30]] * 3


def span(found: Annotation) -> tuple[int, int, tuple[int, int]]:
    return found.start, found.stop, found.segment


# Item, frames in the file, and start, stop and segment if the tube is cut.
SHORT = [
    pytest.param({"img_num": 8}, None, 3, 8, (0, 7), 1, id="more boxes than frames"),
    pytest.param({}, 8, 3, 8, (0, 8), 11, id="cut within the tube"),
    pytest.param({}, 18, 3, 9, (0, 18), 1, id="cut behind the tube"),
    pytest.param({"st_frame": 15}, 18, 14, 18, (0, 18), 2, id="the unshown last frame is gone too"),
]


@pytest.mark.parametrize(("changes", "frames", "start", "stop", "segment", "lacking"), SHORT)
def test_a_short_clip_under_each_policy(
    tmp_path: Path, changes: Any, frames: int | None, start: int, stop: int, segment: tuple[int, int], lacking: int
) -> None:
    found = hcstvg(tmp_path, **changes)
    assert lacking_frames(found, frames) == lacking
    with pytest.raises(
        AnnotationError, match=r"'bbox': .* within the clip's frames .*on_short_clip clip\|as_published"
    ):
        fit_to_clip(found, "refuse", frames)
    for policy in ("clip", "skip_frame"):
        fitted = fit_to_clip(found, policy, frames)  # type: ignore[arg-type]
        assert span(fitted) == (start, stop, segment)
        np.testing.assert_array_equal(fitted.boxes, found.boxes[: stop - start])  # type: ignore[index,arg-type]
    assert span(fit_to_clip(found, "as_published", frames)) == (found.start, found.stop, segment)


@pytest.mark.parametrize("frames", [19, 20, 22])
def test_the_last_frame_of_hcstvg_may_be_missing(tmp_path: Path, frames: int) -> None:
    found = hcstvg(tmp_path, st_frame=15)
    assert found.stop == 20 and fit_to_clip(found, "refuse", frames) is found


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_tube_of_which_nothing_can_be_shown_is_an_error(tmp_path: Path, policy: Any) -> None:
    with pytest.raises(
        AnnotationError,
        match=r"expected a tube of which something is in frames \[0, 3\), got .*\[3, 9\).*on_bad_video skip",
    ):
        fit_to_clip(hcstvg(tmp_path), policy, 3)


def test_a_bad_box_is_named_by_its_place_in_the_file_when_the_tube_is_cut(tmp_path: Path) -> None:
    write_json(
        tmp_path / "vstg_annos/val.json",
        {"1": merged_item(1, used_segment={"begin_fid": 8, "end_fid": 16}, frame_count=9)},
    )
    (found,) = open_source("vidstg", tmp_path).read("val").annotations
    assert span(fit_to_clip(found, "as_published")) == (6, 12, (8, 17)) and lacking_frames(found) == 2
    cut = fit_to_clip(found, "clip")
    assert span(cut) == (8, 12, (8, 17)) and cut.boxes is not None
    cut.boxes[1] = 0
    with pytest.raises(AnnotationError, match=r"'target_bboxs\[3\]'"):
        fit_to_frame(cut, "refuse")


def test_a_segment_of_vidstg_that_leaves_its_video(tmp_path: Path) -> None:
    item = vidstg_item(used_segment={"begin_fid": 2, "end_fid": 20})
    found, _ = read_sentences(write_json(tmp_path / "a.json", [item])).annotations
    with pytest.raises(AnnotationError, match=r"within the clip's frames \[2, 20\), got a segment of \[2, 21\)"):
        fit_to_clip(found, "refuse")
    assert span(fit_to_clip(found, "clip")) == span(fit_to_clip(found, "as_published")) == (6, 12, (2, 20))


def test_all_that_is_touched_is_counted(vidstg: Callable[..., Path]) -> None:
    root = vidstg(val=[vidstg_item("1001"), vidstg_item("1002")])
    content = vidor_file()
    for frame in (7, 8):
        content["trajectories"][frame][0]["bbox"]["xmin"] = -1
    content["trajectories"][9][0]["bbox"]["xmax"] = 0
    write_json(root / "bbox_annos/0001/1001.json", content)
    source = open_source("vidstg", root)
    annotations = source.read("val").annotations
    fitted = fit_annotations(
        annotations, source.with_boxes, on_bad_box="clip", on_short_clip="clip", frames_in_file={"1002": 15}
    )
    assert not fitted.errors and len(fitted.annotations) == 4
    assert fitted.boxes == Touched(sentences=1, clips=1, frames=3)
    assert fitted.short == Touched(sentences=2, clips=1, frames=4)
    refused = fit_annotations(
        annotations, source.with_boxes, on_bad_box="refuse", on_short_clip="refuse", frames_in_file={"1002": 15}
    )
    assert [error.field for error in refused.errors] == ["temporal_gt", "temporal_gt", "trajectories[7]"]
    assert refused.boxes == refused.short == Touched() and len(refused.annotations) == 1
    survey = Survey.of(source.with_boxes(annotations)[0], {"1002": 15})
    assert (survey.boxes, survey.short) == (fitted.boxes, fitted.short)
    boxes, short = survey.lines()
    assert "touch 1 sentence of 1 clip, 3 frames: clip cuts 2 boxes to the frame and leaves 1 without an" in boxes
    assert "touch 2 sentences of 1 clip, 4 frames: clip and skip_frame end" in short
