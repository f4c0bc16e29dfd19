"""Annotation files: what they say comes out, and whatever else they say is an error that names its place."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from datamodules.annotated import Annotation, AnnotationError, Reading
from datamodules.annotated.fields import Fields, read_json
from datamodules.annotated.policies import fit_to_clip, fit_to_frame
from datamodules.annotated.source import sentence_counts
from datamodules.hcstvg.format import read_hcstvg
from datamodules.hcstvg.source import HCSTVGSource
from datamodules.vidstg.format import clean_sentence, read_merged, read_sentences
from datamodules.vidstg.source import VidSTGSource
from tests.datamodules.published import hcstvg_item, merged_item, vidor_file, vidstg_item, write_json
from tests.mutilation import mutilated

# ------------------------------------------------------------------------------------------------------ HC-STVG


def test_hcstvg_counts_from_one_and_boxes_by_corners(tmp_path: Path) -> None:
    (item,) = read_hcstvg(write_json(tmp_path / "a.json", {"7_x.mp4": hcstvg_item()})).annotations
    assert (item.start, item.stop, item.segment, item.num_frames) == (3, 9, (0, 19), 20)
    assert (item.size, item.fps, item.sentence_type) == ((48, 64), 1.0, "declarative")
    assert item.query == "The man in black turns Left."
    assert item.boxes is not None and item.boxes.dtype == np.float32
    assert item.boxes[1].tolist() == [5, 6, 25, 36]


def test_hcstvg_v2_has_other_names_for_the_same(tmp_path: Path) -> None:
    other = hcstvg_item(
        caption=None, width=None, height=None, English="The man in black turns Left.", img_size=[48, 64]
    )
    first, second = read_hcstvg(write_json(tmp_path / "a.json", {"a.mp4": hcstvg_item(), "b.mp4": other})).annotations
    assert (first.size, first.query) == (second.size, second.query)


def test_hcstvg_counts_from_zero_for_tubedetr(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", {name: hcstvg_item(st_frame=start) for name, start in (("a", 4), ("b", 18))})
    first, last = read_hcstvg(file, "tubedetr").annotations
    assert (first.start, first.stop, first.segment, first.may_stop) == (4, 10, (0, 19), 21)
    assert first.boxes is not None and first.boxes[1].tolist() == [5, 6, 25, 36]
    assert (last.start, last.stop) == (18, 24), "its first frame is the last one that is shown"
    (error,) = read_hcstvg(write_json(tmp_path / "b.json", {"a": hcstvg_item(st_frame=19)}), "tubedetr").errors
    assert "'st_frame': expected an integer in [1, 18], got 19" in str(error)


HCSTVG_FAULTS = [
    ({"img_num": "20"}, r"'img_num': expected an integer >= 2, got '20'"),
    ({"img_num": True}, r"'img_num': expected an integer >= 2, got True"),
    ({"img_num": 10**30}, r"'img_num': expected an integer"),
    ({"st_frame": 0}, r"'st_frame': expected an integer in \[1, 19\], got 0"),
    ({"st_frame": 20}, r"'st_frame': expected an integer in \[1, 19\], got 20"),
    ({"caption": " "}, r"'caption': expected a text that is not blank"),
    ({"caption": None}, r"'caption': expected the sentence, here or in 'English'"),
    ({"caption": "\ud800"}, r"'caption': .* got '\\ud800'"),
    ({"bbox": []}, r"'bbox': expected at least one box"),
    ({"bbox": [[1, 2, 3]]}, r"'bbox\[0\]': expected four numbers"),
    ({"bbox": [[1, 2, 3, 4], [1, 2, "3", 4]]}, r"'bbox\[1\]': expected four numbers"),
    ({"bbox": [[1, 2, 3, 10**400]]}, r"'bbox': expected numbers of pixels"),
    ({"bbox": [[1, 2, 3, 4], [1, 2, 3, 1e39]]}, r"'bbox\[1\]': expected finite numbers of pixels, got .*1e\+39"),
    ({"bbox": [[1, 2, 3, 4], [1, None, 3, 4]]}, r"'bbox\[1\]': expected four numbers, got \[1, None, 3, 4\]"),
    ({"bbox": [[1, 2, True, 4]]}, r"'bbox\[0\]': expected four numbers"),
    ({"st_frame": 4.0}, r"'st_frame': expected an integer in \[1, 19\], got 4.0"),
    ({"caption": "?! "}, r"'caption': expected a sentence, got '\?! ', which is a blank sentence"),
    ({"caption": "\u200b"}, r"'caption': expected a sentence, got .*, which is a blank sentence"),
    ({"caption": "a man\x00"}, r"'caption': expected a sentence, got .*, which holds the control character '\\x00'"),
    ({"img_size": [48]}, r"'img_size': expected \[height, width\]"),
    ({"width": 0}, r"'width': expected an integer >= 1, got 0"),
    ({"height": None}, r"'height': expected this field, got an item without it"),
]


@pytest.mark.parametrize(("changes", "message"), HCSTVG_FAULTS)
def test_hcstvg_faults_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = write_json(tmp_path / "a.json", {"good.mp4": hcstvg_item(), "bad.mp4": hcstvg_item(**changes)})
    reading = read_hcstvg(file)
    assert [item.video for item in reading.annotations] == ["good.mp4"]
    assert reading.lost == len(reading.errors) == 1
    with pytest.raises(AnnotationError, match=rf"a\.json', item 'bad\.mp4', field {message}"):
        raise reading.errors[0]


@pytest.mark.parametrize("name", ["", ".", "..", "../a.mp4", "/a.mp4", "a\0.mp4", "\ud800.mp4"])
def test_a_video_name_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    (error,) = read_hcstvg(write_json(tmp_path / "a.json", {name: hcstvg_item()})).errors
    assert "the plain name of a file" in str(error)


def test_unknown_fields_are_counted_and_harmless(tmp_path: Path) -> None:
    reading = read_hcstvg(write_json(tmp_path / "a.json", {n: hcstvg_item(sub="man") for n in ("a.mp4", "b.mp4")}))
    assert len(reading.annotations) == 2 and reading.unknown == {"sub": 2}


# --------------------------------------------------------------------------------------------- whole files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": NaN}', "finite numbers, got NaN"),
        (b'{"a": -Infinity}', "finite numbers, got -Infinity"),
        (b'{"a": [1, 2', "a cut download ends so"),
        (b"\xff\xfe", "UTF-8 text, got byte 0xff"),
        (b"[" * 100_000, "a few levels"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a few digits"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_json(file)


@pytest.mark.parametrize("read", [read_hcstvg, read_sentences, read_merged])
def test_another_kind_of_file_is_refused(tmp_path: Path, read: Any) -> None:
    for value in (3, "a", [] if read is not read_sentences else {}):
        with pytest.raises(AnnotationError, match=r"a\.json': expected (a list|an object)"):
            read(write_json(tmp_path / "a.json", value))
    with pytest.raises(FileNotFoundError, match=r"docs/data\.md"):
        read(tmp_path / "none.json")


def test_keys_and_ids_that_stand_twice_are_errors(tmp_path: Path) -> None:
    text = json.dumps(hcstvg_item())
    path = write_json(tmp_path / "annos/hcstvg_v1/train.json", {})
    path.write_text(f'{{"a.mp4": {text}, "b.mp4": {text}, "a.mp4": {text}}}')
    reading = HCSTVGSource(tmp_path, "v1").read("train")
    assert [str(error).partition(", ")[2] for error in reading.errors] == [
        "item 'a.mp4': expected each key once in an object, got another"
    ]
    write_json(tmp_path / "vstg_annos/val.json", {"0": merged_item(0), "1": merged_item(0)})
    merged = VidSTGSource(tmp_path).read("val")
    assert merged.lost == len(merged.errors) == 1 and "item '1001/0': expected a unique id" in str(merged.errors[0])


# ------------------------------------------------------------------------------------------------------- VidSTG


def official(root: Path, item: dict[str, Any], trajectories: dict[str, Any] | None = None) -> VidSTGSource:
    write_json(root / "sent_annos" / "val_annotations.json", [item])
    if trajectories is not None:
        write_json(root / "bbox_annos" / "1001.json", trajectories)
    return VidSTGSource(root)


def all_with_boxes(source: VidSTGSource) -> tuple[list[Annotation], list[AnnotationError]]:
    reading = source.read("val")
    found, errors = source.with_boxes(reading.annotations)
    return found, [*reading.errors, *errors]


def test_vidstg_ends_are_exclusive_for_tubes_and_inclusive_for_segments(tmp_path: Path) -> None:
    items, errors = all_with_boxes(official(tmp_path, vidstg_item(), vidor_file()))
    assert not errors
    caption, question = items
    assert (caption.item_id, question.item_id) == ("1001/0", "1001/1")
    assert (caption.sentence_type, question.sentence_type) == ("declarative", "interrogative")
    assert (caption.query, question.query) == ("there is a dog watched by the adult", "who watches the dog")
    for item in items:
        assert (item.start, item.stop, item.segment, item.clip_id) == (6, 12, (2, 17), "1001/2-17")
    assert caption.boxes is not None and question.boxes is not None
    assert caption.boxes[0].tolist() == [15, 3, 35, 40] and question.boxes[-1].tolist() == [11, 3, 31, 40]


@pytest.mark.parametrize("form", ["official", "merged"])
def test_segments_and_sentences_of_vidstg_are_other_ones_for_tubedetr(tmp_path: Path, form: str) -> None:
    official(tmp_path, vidstg_item(), vidor_file())
    if form == "merged":
        write_json(tmp_path / "vstg_annos" / "val.json", {str(n): merged_item(n) for n in (0, 1)})
        shutil.rmtree(tmp_path / "sent_annos")
    items, errors = all_with_boxes(VidSTGSource(tmp_path, "tubedetr"))
    assert not errors
    assert [item.query for item in items] == ["There is a dog, watched by the adult.", "who watches the dog?"]
    for item in items:
        assert (item.start, item.stop, item.segment, item.may_stop) == (6, 12, (2, 16), 17)
        assert item.clip_id == "1001/2-17", "the same degradation as under another convention"


def test_a_segment_of_one_frame_is_none_for_tubedetr(tmp_path: Path) -> None:
    segment = {"begin_fid": 6, "end_fid": 6}
    (error,) = read_sentences(write_json(tmp_path / "a.json", [vidstg_item(used_segment=segment)]), "tubedetr").errors
    assert "'used_segment.end_fid': expected an integer >= 7, got 6" in str(error)


def test_both_forms_of_vidstg_say_the_same(tmp_path: Path) -> None:
    items, _ = all_with_boxes(official(tmp_path / "a", vidstg_item(), vidor_file()))
    write_json(tmp_path / "b" / "vstg_annos" / "val.json", {str(n): merged_item(n) for n in (0, 1)})
    merged, errors = all_with_boxes(VidSTGSource(tmp_path / "b"))
    assert not errors and len(merged) == 2
    for a, b in zip(items, merged, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
        for name in (
            "item_id",
            "clip_id",
            "video",
            "query",
            "sentence_type",
            "start",
            "stop",
            "segment",
            "size",
            "fps",
        ):
            assert getattr(a, name) == getattr(b, name), name


VIDSTG_FAULTS = [
    (
        {"temporal_gt": {"begin_fid": 6, "end_fid": 6}},
        r"'temporal_gt.end_fid': expected an integer in \[7, 20\], got 6",
    ),
    ({"temporal_gt": {"begin_fid": 9, "end_fid": 6}}, r"'temporal_gt.end_fid': expected an integer in \[10, 20\]"),
    ({"temporal_gt": {"begin_fid": 6.0, "end_fid": 9}}, r"'temporal_gt.begin_fid': expected an integer .* got 6.0"),
    ({"temporal_gt": {"begin_fid": 0, "end_fid": 2}}, r"'temporal_gt.end_fid': expected an integer in \[3, 20\]"),
    ({"temporal_gt": {"begin_fid": 17, "end_fid": 18}}, r"'temporal_gt.begin_fid': expected an integer in \[0, 16\]"),
    ({"temporal_gt": {"begin_fid": 6, "end_fid": 21}}, r"'temporal_gt.end_fid': expected an integer in \[7, 20\]"),
    ({"used_segment": [2, 16]}, r"'used_segment': expected an object, got \[2, 16\]"),
    ({"captions": []}, None),
    ({"captions": [], "questions": []}, r"'captions': expected a sentence, here or in 'questions', got none"),
    ({"captions": ["a dog"]}, r"'captions\[0\]': expected an object, got 'a dog'"),
    (
        {"captions": [{"description": "a dog", "target_id": 7}]},
        r"'captions\[0\].target_id': expected one of subject/objects \[0, 1\], got 7",
    ),
    ({"captions": [{"description": "1 2", "target_id": 1}]}, r"'captions\[0\].description': expected a sentence with"),
    ({"fps": 0}, r"'fps': expected a positive number, got 0"),
    ({"vid": "../1001"}, r"'vid': expected the plain name of a file"),
    ({"vid": 1001}, r"'vid': expected a text"),
]


@pytest.mark.parametrize(("changes", "message"), VIDSTG_FAULTS)
def test_vidstg_faults_are_named(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    reading = official(tmp_path, vidstg_item(**changes)).read("val")
    if message is None:
        assert not reading.errors
        return
    with pytest.raises(AnnotationError, match=rf"val_annotations\.json', item '0', field {message}"):
        raise reading.errors[0]


def test_a_faulty_item_does_not_move_the_numbers_of_the_others(tmp_path: Path) -> None:
    file = write_json(tmp_path / "a.json", [vidstg_item(fps=-1), vidstg_item()])
    reading = read_sentences(file)
    assert [item.item_id for item in reading.annotations] == ["1001/2", "1001/3"] and reading.lost == 2


def spoilt(frame: int, value: Any) -> dict[str, Any]:
    content = vidor_file()
    content["trajectories"][frame] = value
    return content


@pytest.mark.parametrize(
    ("trajectories", "message"),
    [
        (None, "expected VidOR's annotation of video 1001, got no such file"),
        (vidor_file(frame_count=21), r"item '1001/0', field 'frame_count': expected an integer in \[20, 20\], got 21"),
        (vidor_file(width=65), "field 'width'"),
        (vidor_file(trajectories=[]), "field 'trajectories': expected 20 frames, got 0 frames"),
        (spoilt(7, []), r"field 'trajectories\[7\]': expected one box of object 1, got 0 boxes"),
        (spoilt(7, 3), r"field 'trajectories\[7\]': expected a list, got 3"),
        (
            spoilt(7, [{"tid": 1, "bbox": {"xmin": 1}}]),
            r"field 'trajectories\[7\]\[0\].bbox.ymin': expected a box with",
        ),
        (
            spoilt(7, [{"tid": 1, "bbox": {"xmin": 9, "ymin": 1, "xmax": 1e300, "ymax": 4}}]),
            r"field 'trajectories\[7\]': expected finite numbers of pixels",
        ),
    ],
)
def test_faulty_trajectories_are_named(tmp_path: Path, trajectories: dict[str, Any] | None, message: str) -> None:
    found, errors = all_with_boxes(official(tmp_path, vidstg_item(), trajectories))
    assert len(found) + len(errors) == 2
    with pytest.raises(AnnotationError, match=message):
        raise errors[0]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (3, r"'trajectories\[7\]\[2\]': expected an object, got 3"),
        ([], r"'trajectories\[7\]\[2\]': expected an object, got \[\]"),
        ({}, r"'trajectories\[7\]\[2\].tid': expected this field, got an item without it"),
        ({"tid": "2"}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got '2'"),
        ({"tid": -1}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got -1"),
        ({"tid": 2**31}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got 2147483648"),
        ({"tid": True}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got True"),
        ({"tid": 1.0}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got 1.0"),
        ({"tid": None}, r"'trajectories\[7\]\[2\].tid': expected an integer >= 0, got None"),
        ({"tid": 1}, r"'trajectories\[7\]': expected one box of object 1, got 2 boxes"),
    ],
)
def test_a_fault_beside_the_target_is_named(tmp_path: Path, other: Any, message: str) -> None:
    objects = vidor_file()["trajectories"][7]
    if isinstance(other, dict):
        other = {**other, "bbox": objects[0]["bbox"]}  # all else is sound
    objects.append(other)
    _, errors = all_with_boxes(official(tmp_path, vidstg_item(), spoilt(7, objects)))
    with pytest.raises(AnnotationError, match=rf"1001\.json', item '1001/0', field {message}"):
        raise errors[0]


@pytest.mark.parametrize("others", [[{"tid": 2}], [{"tid": 2, "bbox": 3}], [{"tid": 2, "bbox": {}}] * 2])
def test_boxes_of_other_objects_do_not_matter(tmp_path: Path, others: list[Any]) -> None:
    objects = vidor_file()["trajectories"][7]
    found, errors = all_with_boxes(official(tmp_path, vidstg_item(), spoilt(7, [*others, *objects])))
    boxes = found[0].boxes
    assert len(found) == 2 and not errors and boxes is not None and boxes[1].tolist() == [16, 3, 36, 40]


def test_sound_frames_are_read_as_plain_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields for every object of every frame made the 80,684 sentences of the training set take minutes."""
    source = official(tmp_path, vidstg_item(), vidor_file())
    reading = source.read("val")

    def objects(fields: Fields, name: str) -> list[Fields]:
        raise AssertionError(name)

    monkeypatch.setattr(Fields, "objects", objects)
    found, errors = source.with_boxes(reading.annotations)
    assert len(found) == 2 and not errors


def test_frames_outside_the_tube_may_lack_the_target(tmp_path: Path) -> None:
    assert not all_with_boxes(official(tmp_path, vidstg_item(), spoilt(12, [])))[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qtype": "other"}, "'qtype': expected one of declar, inter, got 'other'"),
        ({"frame_count": 14}, r"'frame_count': expected an integer in \[15, 15\], got 14"),
        ({"target_bboxs": [{}] * 6}, r"'target_bboxs\[0\].xmin': expected a box with xmin"),
        ({"target_bboxs": []}, r"'target_bboxs': expected a box for each of frames \[6, 12\), got 0 boxes"),
        ({"sentence": "a dog"}, "'sentence': expected an object"),
        ({"id": "0"}, "'id': expected an integer"),
    ],
)
def test_merged_faults_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (error,) = read_merged(write_json(tmp_path / "a.json", {"0": merged_item(0, **changes)})).errors
    with pytest.raises(AnnotationError, match=rf"item '0', field {message}"):
        raise error


def test_sentences_are_cleaned_as_published_but_for_the_table_of_misspelt_words(shared: Path) -> None:
    golden = json.loads((shared / "cgstvg" / "golden" / "14_text_cleaning_vidstg.json").read_text())
    table = {
        "whtie": "white",
        "next_to": "next to",
        "inred": "in red",
        "speakin": "speaking",
        "1another": "another",
        "baby_seat": "baby seat",
        "mthe": "man",
        "palid": "",
    }
    for text, expected in zip(golden["in"], golden["out"], strict=True):
        ours = " ".join(table.get(word, word) for word in clean_sentence(text).split())
        assert " ".join(ours.split()) == expected, text


# ---------------------------------------------------------------------------------------------------- real files


@pytest.fixture(scope="module")
def real(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> VidSTGSource:
    root = tmp_path_factory.mktemp("vidstg")
    (root / "sent_annos").mkdir()
    (root / "sent_annos" / "val_annotations.json").symlink_to(shared / "vidstg" / "val_annotations.json")
    return VidSTGSource(root)


def test_the_real_validation_set_is_read_without_fault(real: VidSTGSource) -> None:
    reading = real.read("val")
    assert not reading.errors and not reading.unknown and not reading.duplicates
    assert sentence_counts(reading.annotations) == (3996, 4960) and real.count_mismatch("val") == ""
    assert len({item.item_id for item in reading.annotations}) == 8956
    assert len({item.video for item in reading.annotations}) == 602
    # The evidence for exclusive ends: they reach the number of frames, and never beyond.
    assert max(item.stop - (item.num_frames or 0) for item in reading.annotations) == 0
    assert min(item.stop - item.start for item in reading.annotations) == 4


def test_a_wrong_count_is_told(tmp_path: Path) -> None:
    mismatch = official(tmp_path, vidstg_item()).count_mismatch("val")
    assert mismatch == (
        "has 2 sentences (1 declarative, 1 interrogative), "
        "the published val split 8,956 sentences (3,996 declarative, 4,960 interrogative)"
    )


# --------------------------------------------------------------------------------------------------- properties


def check_sound(item: Annotation) -> None:
    """What every annotation that is not refused promises to those who use it."""
    try:
        item = fit_to_clip(item, "refuse")
        item = item if item.boxes is None else fit_to_frame(item, "refuse")
    except AnnotationError:
        return
    height, width = item.size
    assert item.query.strip() and 0 <= item.segment[0] <= item.start < item.segment[1]
    assert item.start < item.stop and math.isfinite(item.fps) and item.fps > 0
    assert item.num_frames is None or item.stop <= item.num_frames
    if item.boxes is not None:
        x1, y1, x2, y2 = item.boxes.T
        assert item.boxes.shape == (item.stop - item.start, 4) and np.isfinite(item.boxes).all()
        assert (x1 >= 0).all() and (x1 < x2).all() and (x2 <= width).all()
        assert (y1 >= 0).all() and (y1 < y2).all() and (y2 <= height).all()


def read_or_refuse(read: Any, file: Path, value: Any) -> Reading | None:
    file.write_text(json.dumps(value))
    reading, errors = None, []
    try:
        reading = read(file)
    except AnnotationError as error:
        errors.append(error)
    for error in errors if reading is None else reading.errors:
        assert str(file) in str(error) and "expected" in str(error)
    for item in () if reading is None else reading.annotations:
        check_sound(item)
    event("refused" if reading is None or reading.errors else "sound")
    return reading


@given(value=mutilated({"7_a.mp4": hcstvg_item(bbox=[[4.0, 6.0, 20.0, 30.0]] * 2)}))
def test_any_hcstvg_file_is_sound_or_refused(tmp_path: Path, value: Any) -> None:
    read_or_refuse(read_hcstvg, tmp_path / "a.json", value)


@given(value=mutilated([vidstg_item()]))
def test_any_sentence_file_is_sound_or_refused(tmp_path: Path, value: Any) -> None:
    read_or_refuse(read_sentences, tmp_path / "a.json", value)


@given(value=mutilated({"0": merged_item(0)}))
def test_any_merged_file_is_sound_or_refused(tmp_path: Path, value: Any) -> None:
    read_or_refuse(read_merged, tmp_path / "a.json", value)


@given(value=mutilated(vidor_file()))
def test_any_trajectory_file_is_sound_or_refused(tmp_path: Path, value: Any) -> None:
    root = tmp_path / "vidstg"
    source = official(root, vidstg_item(), {})
    (root / "bbox_annos" / "1001.json").write_text(json.dumps(value))
    found, errors = all_with_boxes(source)
    assert len(found) + len(errors) == 2
    for item in found:
        assert item.boxes is not None
        check_sound(item)
    assert all("1001.json" in str(error) for error in errors)
    event("refused" if errors else "sound")


@given(
    name=st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
)
def test_names_in_any_script_are_kept(tmp_path: Path, name: str) -> None:
    reading = read_or_refuse(read_hcstvg, tmp_path / "a.json", {f"{name}.mp4": hcstvg_item(caption=f"a {name}")})
    assert reading is not None and reading.annotations[0].video == f"{name}.mp4"


# ------------------------------------------------------------------------------------------------------ names and size


def test_a_file_is_found_in_the_other_unicode_form(tmp_path: Path) -> None:
    for name in ("cafe\u0301.mp4", "th\u00e9.mp4", "both\u00e9.mp4", "bothe\u0301.mp4"):
        (tmp_path / "v1_video" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "v1_video" / name).touch()
    source = HCSTVGSource(tmp_path, "v1")
    assert source.video_file("caf\u00e9.mp4").name == "cafe\u0301.mp4"
    assert source.video_file("the\u0301.mp4").name == "th\u00e9.mp4"
    for name in ("both\u00e9.mp4", "bothe\u0301.mp4"):
        assert source.video_file(name).name == name, "an exact name first"


def test_two_forms_of_one_name_are_one_item(tmp_path: Path) -> None:
    items = {"caf\u00e9.mp4": hcstvg_item(), "cafe\u0301.mp4": hcstvg_item()}
    write_json(tmp_path / "annos" / "hcstvg_v1" / "train.json", items)
    reading = HCSTVGSource(tmp_path, "v1").read("train")
    assert len(reading.annotations) == 1 and "expected a unique id" in str(reading.errors[0])


def test_a_folder_of_videos_that_cannot_be_read_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1_video").mkdir()

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError):
        HCSTVGSource(tmp_path, "v1").video_file("a.mp4")


def test_a_key_that_stands_twice_takes_no_longer_in_a_large_object(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{" + "".join(f'"{number}": 1, ' for number in range(100_000)) + '"0": 2}')
    start = time.perf_counter()
    assert read_json(file).duplicates == ("0",)
    assert time.perf_counter() - start < 10, "counted once for every key, it would take minutes"
