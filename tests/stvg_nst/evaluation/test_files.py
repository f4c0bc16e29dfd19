from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from stvg_nst.evaluation.files import (
    TubeFileError,
    load_ground_truth,
    load_predictions,
    parse_ground_truth,
    parse_predictions,
    render_ground_truth,
    render_predictions,
)
from stvg_nst.evaluation.tubes import SENTENCE_TYPES
from stvg_nst.types import SENTENCE_TYPES as SENTENCE_TYPES_OF_THE_SUITE
from tests.mutilation import mutilated

BOX = [1, 2.5, 3, 4]


def predictions() -> dict[str, Any]:
    return {
        "format": "stvg-predictions",
        "version": 1,
        "method": "Mine",
        "tubes": [
            {"item_id": "a", "start": 3, "stop": 5, "boxes": [BOX, None]},
            {"item_id": "a", "condition": "defocus:3", "start": 0, "stop": 1, "boxes": [BOX]},
        ],
    }


def ground_truth() -> dict[str, Any]:
    return {
        "format": "stvg-ground-truth",
        "version": 1,
        "dataset": "Tiny",
        "split": "test",
        "tubes": [
            {
                "item_id": "a",
                "sentence_type": "interrogative",
                "conditions": ["HQ", "defocus:3"],
                "sampled_frames": [0, 4],
                "start": 3,
                "stop": 5,
                "boxes": [BOX, BOX],
            },
            {"item_id": "b", "start": 0, "stop": 1, "boxes": [BOX]},
        ],
    }


def test_predictions_are_read() -> None:
    found = parse_predictions(predictions())
    assert (found.method, found.item_ids, found.conditions) == ("Mine", ("a", "a"), ("HQ", "defocus:3"))
    assert (found.tubes.start.tolist(), found.tubes.stop.tolist()) == ([3, 0], [5, 1])
    np.testing.assert_array_equal(found.tubes.boxes, [BOX, [np.nan] * 4, BOX])


def test_ground_truth_is_read() -> None:
    found = parse_ground_truth(ground_truth())
    assert (found.dataset, found.split, found.item_ids) == ("Tiny", "test", ("a", "b"))
    assert found.sentence_types == ("interrogative", None)
    assert found.conditions == (("HQ", "defocus:3"), ("HQ",))
    assert found.sampled_frames[0] is not None and found.sampled_frames[0].tolist() == [0, 4]
    assert found.sampled_frames[1] is None


def test_what_is_rendered_is_read_exactly(tmp_path: Path) -> None:
    third = float(np.float32(1 / 3))
    tube = {"item_id": "a", "start": 0, "stop": 1, "boxes": [[1 / 3, 0.1, third, 2]]}
    path = tmp_path / "tubes.json"
    path.write_text(render_predictions("Mine", [tube, tube | {"item_id": "b\n\u2028\U0001f3a5"}]))
    assert len(path.read_text().splitlines()) == 4, "a tube on a line"
    found = load_predictions(path)
    assert found.item_ids == ("a", "b\n\u2028\U0001f3a5")
    assert found.tubes.boxes[0].tolist() == tube["boxes"][0]
    path.write_text(render_ground_truth("Tiny", "test", [tube]))
    assert load_ground_truth(path).tubes.boxes[0].tolist() == tube["boxes"][0]
    path.write_text(render_predictions("Mute", []))
    assert len(load_predictions(path).tubes) == 0


def test_sentence_types_are_those_of_the_suite() -> None:
    assert SENTENCE_TYPES == SENTENCE_TYPES_OF_THE_SUITE


def put(*path: str | int, value: Any) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


FAULTS_OF_BOTH = [
    (put("format", value="coco"), "format: expected 'stvg-\\w+-?\\w*', got \"coco\"; is this the file that was meant"),
    (put("version", value=2), "version: expected 1, got 2"),
    (put("version", value=True), "version: expected 1, got true"),
    (drop("version"), "document: expected a field 'version', got only"),
    (put("methods", value=1), "methods: expected no field of this name"),
    (put("tubes", value={}), r"tubes: expected a list, got \{\}"),
    (put("tubes", value={"a": {"boxes": [BOX]}}), r'tubes: expected a list, got \{"a": \{"boxes": \[\[1.*\]\]\}\}'),
    (put("tubes", 1, value=7), r"tubes\[1\]: expected an object, got 7"),
    (put("tubes", 1, "item_id", value=""), r'tubes\[1\].item_id: expected a text that is not empty, got ""'),
    (put("tubes", 1, "item_id", value=7), r"tubes\[1\].item_id: expected a text that is not empty, got 7"),
    (drop("tubes", 1, "stop"), r"tubes\[1\]: expected a field 'stop', got only boxes"),
    (put("tubes", 1, "conditon", value="HQ"), r"tubes\[1\].conditon: expected no field of this name"),
    (put("tubes", 0, "start", value=-1), r"tubes\[0\].start: expected a whole number of at least 0 .*, got -1"),
    (put("tubes", 0, "start", value=2.0), r"tubes\[0\].start: expected a whole number of at least 0 .*, got 2.0"),
    (put("tubes", 0, "start", value=True), r"tubes\[0\].start: expected a whole number of at least 0 .*, got true"),
    (put("tubes", 0, "stop", value=3), r"tubes\[0\].stop: expected a whole number of at least 4 .*, got 3"),
    (put("tubes", 0, "stop", value=2**31), r"tubes\[0\].stop: expected a whole number .* below 2 \*\* 31, got 2147"),
    (put("tubes", 0, "stop", value=6), r"tubes\[0\].boxes: expected 3 boxes, one for each frame of \[3, 6\), got 2"),
    (put("tubes", 0, "boxes", value="x"), r'tubes\[0\].boxes: expected a list, got "x"'),
    (put("tubes", 0, "boxes", 1, value=[1, 2, 3]), r"tubes\[0\].boxes\[1\]: expected four numbers .*, got \[1, 2, 3\]"),
    (put("tubes", 0, "boxes", 1, value="abcd"), r'tubes\[0\].boxes\[1\]: expected four numbers .*, got "abcd"'),
    (put("tubes", 0, "boxes", 0, 2, value=math.nan), r"tubes\[0\].boxes\[0\]\[2\]: expected a finite number, got NaN"),
    (put("tubes", 0, "boxes", 0, 3, value=math.inf), r"tubes\[0\].boxes\[0\]\[3\]: expected a finite number, got Inf"),
    (put("tubes", 0, "boxes", 0, 0, value=-(10**400)), r"tubes\[0\].boxes\[0\]\[0\]: expected a finite .* got -1000"),
    (put("tubes", 0, "boxes", 0, 1, value=None), r"tubes\[0\].boxes\[0\]\[1\]: expected a finite number, got null"),
    (put("tubes", 0, "boxes", 0, 1, value="2"), r'tubes\[0\].boxes\[0\]\[1\]: expected a finite number, got "2"'),
    (put("tubes", 0, "boxes", 0, 1, value=True), r"tubes\[0\].boxes\[0\]\[1\]: expected a finite number, got true"),
    (
        put("tubes", 0, "boxes", 0, value=[3, 0, 1, 4]),
        r"tubes\[0\].boxes\[0\]: expected x1 <= x2 .* \[3, 0, 1, 4\]",
    ),
]
FAULTS_OF_PREDICTIONS = [
    (put("method", value=None), "method: expected a text that is not empty, got null"),
    (
        put("tubes", 1, "condition", value="HQ"),
        r"tubes\[1\]: expected one tube for item 'a' in condition 'HQ', and t",
    ),
    (put("tubes", 1, "condition", value="blur"), r"tubes\[1\].condition: expected 'HQ', 'LQ' or 'kind:severity' .*bl"),
    (put("tubes", 1, "condition", value="blur:0"), r'tubes\[1\].condition: .* got "blur:0"'),
    (put("tubes", 1, "condition", value="HQ\n"), r"tubes\[1\].condition: .* got "),
]
FAULTS_OF_GROUND_TRUTH = [
    (put("split", value=""), 'split: expected a text that is not empty, got ""'),
    (put("tubes", value=[]), "tubes: expected at least one tube, got none"),
    (put("tubes", 1, "item_id", value="a"), r"tubes\[1\].item_id: expected an id of its own, and 'a' is that of tubes"),
    (put("tubes", 0, "boxes", 1, value=None), r"tubes\[0\].boxes\[1\]: expected four numbers \[.*2\], got null"),
    (put("tubes", 0, "conditions", value=[]), r"tubes\[0\].conditions: expected a list that is not empty, got \[\]"),
    (put("tubes", 0, "conditions", value=["HQ", "HQ"]), r"tubes\[0\].conditions: expected each condition once"),
    (put("tubes", 0, "conditions", 1, value="x"), r"tubes\[0\].conditions\[1\]: expected 'HQ', 'LQ' or"),
    (put("tubes", 0, "sentence_type", value="declar"), r"tubes\[0\].sentence_type: expected 'declarative' or 'interr"),
    (put("tubes", 0, "sentence_type", value=[]), r"tubes\[0\].sentence_type: expected 'declarative' or 'interr"),
    (put("tubes", 0, "sampled_frames", value=[4, 4]), r"tubes\[0\].sampled_frames\[1\]: .* at least 5 .* got 4"),
    (put("tubes", 0, "sampled_frames", value=3), r"tubes\[0\].sampled_frames: expected a list, got 3"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS_OF_BOTH + FAULTS_OF_PREDICTIONS)
def test_faults_of_predictions_are_named_by_place(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    content = json.loads(json.dumps(predictions()))
    change(content)
    path = tmp_path / "p.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TubeFileError, match=f"^{re.escape(str(path))}: {message}"):
        load_predictions(path)
    with pytest.raises(TubeFileError, match=f"^p.json: {message}"):
        parse_predictions(content, name="p.json")


@pytest.mark.parametrize(("change", "message"), FAULTS_OF_BOTH + FAULTS_OF_GROUND_TRUTH)
def test_faults_of_ground_truth_are_named_by_place(tmp_path: Path, change: Callable[[Any], None], message: str) -> None:
    content = json.loads(json.dumps(ground_truth()))
    change(content)
    path = tmp_path / "g.json"
    path.write_text(json.dumps(content))
    with pytest.raises(TubeFileError, match=f"^{re.escape(str(path))}: {message}"):
        load_ground_truth(path)
    with pytest.raises(TubeFileError, match=f"^g.json: {message}"):
        parse_ground_truth(content, name="g.json")


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    with pytest.raises(TubeFileError, match=r"p.json: cannot be read: No such file"):
        load_predictions(path)
    path.write_text('{"version": ' + "1" * 5_000 + "}")
    with pytest.raises(TubeFileError, match=r"p.json: expected numbers of a few digits, got an integer of thousands"):
        load_predictions(path)
    path.write_text(json.dumps(predictions())[:50])
    with pytest.raises(TubeFileError, match=r"p.json: is not JSON .*; was it cut off\?"):
        load_predictions(path)
    path.write_text("[" * 100_000)
    with pytest.raises(TubeFileError, match=r"p.json: expected JSON of a few levels"):
        load_predictions(path)
    path.write_bytes(b'{"\xff": 1}')
    with pytest.raises(TubeFileError, match=r"p.json: is not UTF-8 text"):
        load_ground_truth(path)
    with pytest.raises(TubeFileError, match=r"predictions: document: expected an object, got \[\]"):
        parse_predictions([])


def answer(read: Callable[[], Any]) -> tuple[Any, ...] | str:
    """What a reader says of a document, in a form that compares; what it shows may be an array by then."""
    try:
        found = read()
    except TubeFileError as error:
        return str(error).partition(", got")[0]
    return found.item_ids, found.tubes.start.tolist(), found.tubes.stop.tolist(), repr(found.tubes.boxes.tolist())


def check_quick_reading(folder: Path, value: Any, load: Any, parse: Any) -> None:
    path = folder / "tubes.json"
    path.write_text(json.dumps(value))
    as_written = json.loads(path.read_text())  # an object's keys are texts now
    assert answer(lambda: load(path)) == answer(lambda: parse(as_written, name=str(path)))


@given(value=mutilated(predictions()))
def test_any_predictions_are_read_as_carefully_from_a_file(tmp_path: Path, value: Any) -> None:
    check_quick_reading(tmp_path, value, load_predictions, parse_predictions)


@given(value=mutilated(ground_truth()))
def test_any_ground_truth_is_read_as_carefully_from_a_file(tmp_path: Path, value: Any) -> None:
    check_quick_reading(tmp_path, value, load_ground_truth, parse_ground_truth)


@pytest.mark.parametrize("field", ["method", "item_id", "start", "boxes"])
def test_a_field_that_is_given_twice_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "predictions.json"
    text = json.dumps(predictions())
    path.write_text(text.replace(f'"{field}":', f'"{field}": null, "{field}":', 1))
    with pytest.raises(TubeFileError, match=rf"predictions\.json: an object gives the field '{field}' twice"):
        load_predictions(path)


def test_a_value_may_be_called_as_a_field(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(predictions() | {"method": "boxes"}))
    assert load_predictions(tmp_path / "predictions.json").method == "boxes"


def test_bad_boxes_are_taken_as_the_header_says(tmp_path: Path) -> None:
    tube = {"item_id": "a", "start": 3, "stop": 5}
    bad = {"as_published": [[0, 0, 3, 4], [-40, 0, -67, -47]], "skip_frame": [[0, 0, 3, 4], None]}
    for policy, boxes in bad.items():
        path = tmp_path / f"{policy}.json"
        path.write_text(render_ground_truth("Tiny", "test", [{**tube, "boxes": boxes}], bad_boxes=policy))
        found = load_ground_truth(path).tubes.boxes
        np.testing.assert_array_equal(found, [[np.nan] * 4 if box is None else box for box in boxes])
        for other in {"refuse", "clip", *bad} - {policy}:
            path.write_text(render_ground_truth("Tiny", "test", [{**tube, "boxes": boxes}], bad_boxes=other))
            with pytest.raises(TubeFileError, match=r"tubes\[0\].boxes\[1\]: expected (x1 <= x2|four numbers)"):
                load_ground_truth(path)
    path.write_text(render_ground_truth("Tiny", "test", [{**tube, "boxes": [None, None]}], bad_boxes="skip_frame"))
    with pytest.raises(TubeFileError, match="expected a box on at least one frame, got none"):
        load_ground_truth(path)
    path.write_text(render_ground_truth("Tiny", "test", [], bad_boxes="cut"))
    with pytest.raises(TubeFileError, match=r"bad_boxes: expected one of refuse, clip, .* got \"cut\""):
        load_ground_truth(path)


def test_verdicts_on_the_quality_are_of_every_tube_or_of_none() -> None:
    content = predictions()
    assert parse_predictions(content).verdicts is None
    content["tubes"][1]["verdict"] = 0.5
    with pytest.raises(TubeFileError, match=r"tubes\[1\].verdict: expected a verdict of every tube or of none"):
        parse_predictions(content)
    content["tubes"][0]["verdict"] = 0
    verdicts = parse_predictions(content).verdicts
    assert verdicts is not None and verdicts.tolist() == [0.0, 0.5]
    content["tubes"][0]["verdict"] = 1.5
    with pytest.raises(TubeFileError, match=r"tubes\[0\].verdict: expected a number in \[0, 1\], got 1.5"):
        parse_predictions(content)
