"""Lines of own clips, in seconds and in frames, and what is refused in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.annotated import Annotation, AnnotationError
from datamodules.footage import Footage
from datamodules.own_clips.format import parse_line, read_lines, video_of
from tests.datamodules.published import own_line

EVEN = Footage("cam/a.mp4", tuple(index / 10 for index in range(20)), 10.0, (48, 64))
# A phone that drops frames: the rate is 10 on average, but nothing happens between 0.3 s and 1.0 s.
UNEVEN = Footage("cam/a.mp4", (0.0, 0.1, 0.2, 0.3, 1.0, 1.1, 1.2, 1.3), 10.0, (48, 64))


def parse(tmp_path: Path, line: dict[str, Any], film: Footage = EVEN) -> Annotation:
    file = tmp_path / "annotations.jsonl"
    file.write_text(json.dumps(line) + "\n")
    read = read_lines(file)
    assert not read.errors, read.errors[0]
    return parse_line(read.lines[0], film)


def test_boxes_move_in_straight_lines_between_those_that_are_given(tmp_path: Path) -> None:
    found = parse(tmp_path, own_line())
    assert (found.start, found.stop, found.segment, found.num_frames) == (4, 12, (0, 20), 20)
    assert found.boxes is not None and found.boxes.dtype == np.float32
    np.testing.assert_allclose(found.boxes, [[4 + i, 6, 20 + i, 30] for i in range(8)], atol=1e-4)


def test_a_line_that_says_no_tube_is_about_the_whole_part(tmp_path: Path) -> None:
    found = parse(tmp_path, own_line(start=None, stop=None, boxes=None, part=[0.2, 1.8]))
    assert not found.has_tube and (found.start, found.stop) == found.segment == (2, 18)
    assert found.boxes is not None and found.boxes.shape == (16, 4) and np.isnan(found.boxes).all()
    with pytest.raises(AnnotationError, match="field 'stop'"):
        parse(tmp_path, own_line(stop=None, boxes=None))


def test_seconds_and_frames_say_the_same(tmp_path: Path) -> None:
    boxes = [{"at": 4, "box": [4, 6, 20, 30]}, {"at": 11, "box": [11, 6, 27, 30]}]
    in_frames = parse(tmp_path, own_line(unit="frames", start=4, stop=12, boxes=boxes))
    in_seconds = parse(tmp_path, own_line())
    assert (in_frames.start, in_frames.stop) == (in_seconds.start, in_seconds.stop)
    assert in_frames.boxes is not None and in_seconds.boxes is not None
    np.testing.assert_allclose(in_frames.boxes, in_seconds.boxes, atol=1e-4)


def test_a_box_rests_before_the_first_and_behind_the_last(tmp_path: Path) -> None:
    found = parse(tmp_path, own_line(boxes=[{"at": 0.8, "box": [4, 6, 20, 30]}]))
    assert found.boxes is not None and (found.boxes == [4, 6, 20, 30]).all() and len(found.boxes) == 8


def test_seconds_are_those_of_a_player_where_the_rate_varies(tmp_path: Path) -> None:
    boxes = [{"at": 0.2, "box": [0, 6, 20, 30]}, {"at": 1.2, "box": [10, 6, 30, 30]}]
    found = parse(tmp_path, own_line(start=0.2, stop=1.2, boxes=boxes), UNEVEN)
    assert (found.start, found.stop) == (2, 6)
    assert found.boxes is not None
    np.testing.assert_allclose(found.boxes[:, 0], [0, 1, 8, 9], atol=1e-4)


def test_a_part_of_a_film_is_a_clip_of_its_own(tmp_path: Path) -> None:
    found = parse(tmp_path, own_line(part=[0.2, 1.8]))
    assert found.segment == (2, 18) and found.clip_id == "cam/a.mp4#2-18" and (found.start, found.stop) == (4, 12)
    assert [video_of(clip) for clip in (found.clip_id, "cam/a.mp4", "a#1.mp4", "a#1.mp4#2-3")] == [
        *["cam/a.mp4"] * 2,
        *["a#1.mp4"] * 2,
    ]


def test_a_question_is_told_by_its_mark_unless_the_line_says_it(tmp_path: Path) -> None:
    assert parse(tmp_path, own_line()).sentence_type == "declarative"
    assert parse(tmp_path, own_line(sentence="who waves? ")).sentence_type == "interrogative"
    assert parse(tmp_path, own_line(type="interrogative")).sentence_type == "interrogative"


@pytest.mark.parametrize(
    "sentence",
    [
        "\u8c01\u5728\u6325\u624b\uff1f",
        "\u0645\u0646 \u064a\u0644\u0648\u062d\u061f",
        '"Who waves?" ',
        "Who waves?!",
        "\u8c01\uff1f\u3000",
    ],
)
def test_a_question_is_told_by_the_mark_of_any_script(tmp_path: Path, sentence: str) -> None:
    assert parse(tmp_path, own_line(sentence=sentence)).sentence_type == "interrogative"
    assert parse(tmp_path, own_line(sentence=f"{sentence} she asks")).sentence_type == "declarative"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": None}, "'start': expected this field, got an item without it"),
        ({"start": "0:04"}, "'start': expected a number that is not negative, got '0:04'"),
        ({"start": -1}, "'start': expected a number that is not negative, got -1"),
        ({"stop": 2.2}, "'stop': expected at most the 2 seconds of 'cam/a.mp4', got 2.2"),
        (
            {"stop": 0.42},
            r"'stop': expected a tube of at least one frame within frames \[0, 20\) of .* frames \[4, 4\)",
        ),
        ({"stop": 0.2}, r"'stop': expected a tube .*, got from 0.4 to 0.2 seconds, which is frames \[4, 2\)"),
        ({"part": [0.6, 1.8]}, r"'stop': expected a tube .* within frames \[6, 18\) .* got .* frames \[4, 12\)"),
        ({"part": [0.6]}, r"'part': expected \[from, to\], two numbers of seconds"),
        ({"part": [0.6, "x"]}, r"'part\[1\]': expected a number that is not negative, got 'x'"),
        ({"part": [1.8, 0.2]}, r"'part': expected \[from, to\] with at least one frame between"),
        ({"unit": "minutes"}, "'unit': expected 'seconds' or 'frames', got 'minutes'"),
        ({"unit": "frames", "start": 4.5, "stop": 12}, "'start': expected a whole number of frames, got 4.5"),
        ({"type": "question"}, "'type': expected 'declarative' or 'interrogative'"),
        ({"sentence": "  "}, "'sentence': expected a text that is not blank"),
        ({"boxes": []}, "'boxes': expected at least one box, got none"),
        ({"boxes": [[0.4, 1, 2, 3, 4]]}, r"'boxes\[0\]': expected an object"),
        ({"boxes": [{"at": 0.4, "box": [1, 2, 3]}]}, r"'boxes\[0\]': expected four numbers"),
        ({"boxes": [{"box": [1, 2, 3, 4]}]}, r"'boxes\[0\].at': expected this field"),
        ({"boxes": [{"at": 1.4, "box": [1, 2, 3, 4]}]}, r"'boxes\[0\].at': expected a box within the tube"),
        (
            {"boxes": [{"at": 0.8, "box": [1, 2, 3, 4]}, {"at": 0.8, "box": [1, 2, 3, 4]}]},
            r"'boxes\[1\].at': expected later boxes behind earlier ones, got 0.8 seconds",
        ),
    ],
)
def test_what_is_wrong_is_named_by_line_and_field(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=rf"annotations.jsonl', item 'line 1', field {message}"):
        parse(tmp_path, own_line(**changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "item 'line 3': expected JSON; a cut download ends so, got .* in column 2"),
        ("[1]", r"item 'line 3': expected an object, got \[1\]"),
        (json.dumps(own_line(video="../a.mp4")), "'video': expected a path below the folder of the annotations"),
        (json.dumps(own_line(video="/a.mp4")), "'video': expected a path below the folder"),
        (json.dumps(own_line(split="dev")), "'split': expected 'train' or 'val' or 'test', got 'dev'"),
        ('{"video": NaN}', "item 'line 3': expected standard JSON with finite numbers, got NaN"),
    ],
)
def test_a_faulty_line_leaves_the_others(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "annotations.jsonl"
    file.write_text(f"\ufeff{json.dumps(own_line())}\n\n{text}\n{json.dumps(own_line(note=1))}\n")
    read = read_lines(file)
    assert [line.item_id for line in read.lines] == ["cam/a.mp4/1", "cam/a.mp4/2"] and dict(read.unknown) == {"note": 1}
    (error,) = read.errors
    with pytest.raises(AnnotationError, match=message):
        raise error


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "an empty file"),
        ("\ufeff\r\n", "an empty file"),
        (json.dumps([own_line(), own_line()]), "a list of 2"),
        (json.dumps([own_line(), own_line()], indent=1), "a list of 2"),
        (f"[\n{json.dumps(own_line())},\n{json.dumps(own_line())}\n]", "a list of 2"),
        (json.dumps(own_line(), indent=1), "one object over several lines"),
    ],
)
def test_a_file_that_is_no_lines_is_one_fault(tmp_path: Path, text: str, got: str) -> None:
    file = tmp_path / "annotations.jsonl"
    file.write_text(text)
    with pytest.raises(AnnotationError, match=rf"jsonl': expected a JSON object in each line, .*, got {got}$"):
        read_lines(file)
