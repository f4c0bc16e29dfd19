"""What `data verify` finds in data sets that are spoilt in every way that users have met."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from datamodules.annotated import AnnotationError
from datamodules.annotated import verify as verify_module
from datamodules.annotated.manifest import SOUND, VideoEntry, read_manifest, write_manifest
from datamodules.annotated.verify import Verification, verify
from datamodules.data_sets import open_source
from datamodules.playable import write_playable
from datamodules.video import probe
from tests.datamodules.published import (
    NUM_FRAMES,
    SIZE,
    hcstvg_item,
    own_line,
    vidor_file,
    vidstg_item,
    write_clip,
    write_json,
)
from tests.mutilation import mutilated


def look(root: Path, name: Any = "hcstvg_v1", *, splits: Any = ("train",), **options: Any) -> Verification:
    options = {"expect_official_counts": False, "workers": 1, **options}
    return verify(open_source(name, root), splits, root / "manifest.json", **options)


def faults(found: Verification, root: Path) -> dict[str, str]:
    return {fault.where.removeprefix(f"{root}/"): fault.what for fault in found.faults}


def test_a_sound_data_set_has_no_faults(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item(), "b.mkv": hcstvg_item()})
    found = look(root)
    assert found == Verification((), 2, 2, 2) and not found.failed
    entry = read_manifest(root / "manifest.json", "hcstvg_v1")["a.mp4"]
    assert (entry.path, entry.num_frames, entry.size, entry.verdict) == ("v1_video/a.mp4", NUM_FRAMES, SIZE, SOUND)
    assert entry.fps == pytest.approx(10) and entry.sha256 is not None and len(entry.sha256) == 64


def test_bad_videos_are_found(hcstvg: Callable[..., Path]) -> None:
    kinds = ("missing", "empty", "page", "cut", "damaged", "short", "wide", "good")
    root = hcstvg(train={f"{kind}.mp4": hcstvg_item() for kind in kinds})
    folder = root / "v1_video"
    (folder / "missing.mp4").unlink()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "page.mp4").write_text("<html>This video is unavailable</html>")
    content = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    content = (folder / "damaged.mp4").read_bytes()
    place = content.index(b"moov") - 200  # in the last frames, behind the key frame
    (folder / "damaged.mp4").write_bytes(content[:place] + bytes(100) + content[place + 100 :])
    write_clip(folder / "short.mp4", num_frames=NUM_FRAMES - 2)
    write_clip(folder / "wide.mp4", size=(SIZE[0], SIZE[1] + 16))
    found = look(root)
    said = faults(found, root)
    assert found.failed and said.keys() == {f"v1_video/{kind}.mp4" for kind in kinds[:-1]}
    for kind, what in (
        ("missing", "missing"),
        ("empty", "unreadable: the file is empty"),
        ("page", "unreadable: it is truncated or no video"),
        ("cut", "unreadable: it is truncated or no video"),
        ("damaged", "damaged: "),
        ("short", "too short: 18 frames, but 19 are needed"),
        ("wide", "wrong size: (48, 80) (H, W), but the annotations were made for (48, 64)"),
    ):
        assert said[f"v1_video/{kind}.mp4"].startswith(what), said
    verdicts = {name: entry.verdict for name, entry in read_manifest(root / "manifest.json", "hcstvg_v1").items()}
    assert verdicts == {f"{kind}.mp4": said.get(f"v1_video/{kind}.mp4", SOUND) for kind in kinds}


def test_another_number_of_frames_is_a_note(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={"less.mp4": hcstvg_item(), "more.mp4": hcstvg_item()})
    write_clip(root / "v1_video" / "less.mp4", num_frames=NUM_FRAMES - 1)  # the last frame is never shown
    write_clip(root / "v1_video" / "more.mp4", num_frames=NUM_FRAMES + 3)
    found = look(root)
    assert not found.failed and all(fault.is_note for fault in found.faults)
    assert faults(found, root) == {
        "v1_video/less.mp4": "has 19 frames, the annotations say 20",
        "v1_video/more.mp4": "has 23 frames, the annotations say 20",
    }


def test_faulty_annotations_are_all_listed(hcstvg: Callable[..., Path]) -> None:
    outside = [[60.0, 6.0, 20.0, 30.0]]
    root = hcstvg(
        train={"a.mp4": hcstvg_item(bbox=outside), "b.mp4": hcstvg_item(img_num=6), "c.mp4": hcstvg_item(x=1)}
    )
    found = look(root, splits=("train", "test"), expect_official_counts=True)
    said = faults(found, root)
    file = "annos/hcstvg_v1/train.json"
    assert said.pop("annos/hcstvg_v1/test.json") == "missing"
    assert "within the frame of 64 x 48 pixels" in said.pop(f"{file}, item 'a.mp4', field 'bbox[0]'")
    assert said.pop(f"{file}, item 'b.mp4', field 'bbox'") == (
        "expected a segment and a tube within the clip's frames [0, 6), got a segment of [0, 5) and a tube of [3, 9)"
    )
    assert said.pop("v1_video/b.mp4") == "has 20 frames, the annotations say 6"
    assert [line.partition(":")[0] for line in found.notes] == [
        "--data.init_args.on_bad_box would touch 1 sentence of 1 clip, 1 frame",
        "--data.init_args.on_short_clip would touch 1 sentence of 1 clip, 3 frames",
    ]
    assert not said.keys() - {file}
    whole = [fault for fault in found.faults if fault.where.endswith("train.json")]
    assert [(fault.what.split(" ")[0], fault.is_note) for fault in whole] == [("has", False), ("unknown", True)]
    assert "4,500 sentences" in whole[0].what and whole[1].what == "unknown field 'x' in 1 item"


def test_a_damaged_annotation_file_is_a_fault(tmp_path: Path) -> None:
    path = write_json(tmp_path / "annos/hcstvg_v1/train.json", {})
    path.write_text('{"a.mp4": {')
    (fault,) = look(tmp_path).faults
    assert "a cut download ends so" in fault.what


def test_vidstg_is_checked_with_its_trajectories(vidstg: Callable[..., Path]) -> None:
    root = vidstg(val=[vidstg_item("1001"), vidstg_item("1002"), vidstg_item("1002", frame_count=21)])
    write_json(root / "bbox_annos/0001/1001.json", vidor_file(trajectories=[[]] * NUM_FRAMES))
    found = look(root, "vidstg", splits=("val",))
    said = faults(found, root)
    assert found.num_videos == 2 and found.num_sentences == 6
    missing = [where for where, what in said.items() if "one box of object" in what]
    assert missing == [f"bbox_annos/0001/1001.json, item '1001/{n}', field 'trajectories[6]'" for n in (0, 1)]
    assert "contradict each other" in said["videos/0001/1002.mp4"]


def test_own_clips_that_a_player_stretches_are_named(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*(own_line(video=f"{name}.mp4") for name in "abc"))
    frames, times = np.zeros((20, 48, 64, 3), np.uint8), [index / 10 for index in range(20)]
    write_playable(root / "b.mp4", frames, times, fps=10, pixel_aspect=Fraction(16, 11))
    source = open_source("own_clips", root)
    for _ in range(2):  # the second time from the manifest
        found = verify(source, source.splits, root / "m.json", workers=1)
        (note,) = found.faults
        assert not found.failed and note.is_note and note.where == str(root / "b.mp4")
        assert note.what == (
            "its pixels are not square (16:11): count boxes in its 64 x 48 pixels, before a player stretches them"
        )


def test_verified_videos_are_not_decoded_again_unless_they_change(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={name: hcstvg_item() for name in ("a.mp4", "b.mp4", "c.mp4")})
    (root / "v1_video" / "c.mp4").write_bytes(b"")
    assert look(root).num_checked == 3
    assert look(root).num_checked == 1  # the bad one: it may have been fetched anew
    write_clip(root / "v1_video" / "a.mp4", num_frames=5)
    write_clip(root / "v1_video" / "c.mp4")
    seen: list[tuple[int, int]] = []
    found = look(root, progress=lambda done, total: seen.append((done, total)))
    assert found.num_checked == 2 and seen == [(1, 3), (2, 3), (3, 3)]
    assert faults(found, root) == {"v1_video/a.mp4": "too short: 5 frames, but 19 are needed"}


def test_a_verified_video_is_judged_anew_by_other_annotations(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item()})
    assert not look(root).failed
    write_json(root / "annos/hcstvg_v1/train.json", {"a.mp4": hcstvg_item(img_num=40)})
    found = look(root)
    assert found.num_checked == 0
    assert faults(found, root) == {"v1_video/a.mp4": "too short: 20 frames, but 39 are needed"}


def test_an_interrupted_verification_keeps_what_it_found(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={name: hcstvg_item() for name in ("a.mp4", "b.mp4")})

    def interrupt(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(root, progress=interrupt)
    assert len(read_manifest(root / "manifest.json", "hcstvg_v1")) == 1
    assert look(root).num_checked == 1
    assert not [path for path in os.listdir(root) if path.endswith(".partial")]


def test_two_verifications_at_once_keep_what_each_has_found(
    hcstvg: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item()}, test={"b.mp4": hcstvg_item()})

    def calls(function: Callable[[Any], Any], **limits: object) -> Callable[[Sequence[Any]], object]:
        return lambda tasks: enumerate(map(function, tasks))  # in this process: another would be slow to start

    monkeypatch.setattr(verify_module, "IsolatedCalls", calls)

    def look_at_test(done: int, total: int) -> None:
        if done == 0:
            look(root, splits=("test",))

    look(root, progress=look_at_test)
    assert read_manifest(root / "manifest.json", "hcstvg_v1").keys() == {"a.mp4", "b.mp4"}


def test_a_video_that_takes_too_long_is_bad(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item()})
    found = look(root, time_limit=1e-6)
    assert faults(found, root) == {"v1_video/a.mp4": "unreadable: takes longer than 1e-06 seconds"}
    assert not look(root).failed


def test_the_real_clips_are_sound(shared: Path, tmp_path: Path) -> None:
    root = shared / "real_clips" / "hc-stvg"
    if not root.is_dir():
        pytest.skip("no real clips in the shared folder")
    source, file = open_source("hcstvg_v1", root), tmp_path / "manifest.json"
    found = verify(source, source.splits, file, expect_official_counts=False, workers=1)
    assert found == Verification((), 2, 2, 2)
    for entry in read_manifest(file, "hcstvg_v1").values():
        info = probe(root / entry.path)
        assert (entry.num_frames, entry.fps, entry.size) == (info.num_frames, info.fps, info.size)


def test_a_manifest_survives_the_round_trip_and_refuses_others(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    entries = {"é.mp4": VideoEntry("v/é.mp4", 3, 4, "ab", 5, 6.5, (7, 8)), "b": VideoEntry("b", verdict="missing")}
    entries["c"] = VideoEntry("c", times=(0.0, 0.1), pixel_aspect=(16, 11))
    write_manifest(file, "vidstg", entries)
    assert read_manifest(file, "vidstg") == entries
    with pytest.raises(AnnotationError, match="'dataset': expected 'hcstvg_v2', got 'vidstg'"):
        read_manifest(file, "hcstvg_v2")
    content = json.loads(file.read_text())
    for change, message in (
        ({"schema": 2}, r"'schema': expected an integer in \[1, 1\], got 2"),
        ({"videos": {"a": {"path": "a", "size": [1], "verdict": "sound"}}}, r"item 'a', field 'size'"),
        ({"videos": {"a": {"path": "a"}}}, r"item 'a', field 'verdict': expected this field"),
    ):
        with pytest.raises(AnnotationError, match=message):
            read_manifest(write_json(file, content | change), "vidstg")


ENTRIES = {
    "a.mp4": {"path": "v/a.mp4", "num_bytes": 3, "mtime_ns": 4, "sha256": "ab", "num_frames": 5, "fps": 6.5}
    | {"size": [7, 8], "verdict": "sound"},
    "b.mp4": {"path": "v/b.mp4", "verdict": "missing"},
}


@given(content=mutilated({"schema": 1, "dataset": "vidstg", "videos": ENTRIES}))
def test_any_manifest_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    found, refusal = {}, "m.json: expected"
    try:
        found = read_manifest(write_json(tmp_path / "m.json", content), "vidstg")
    except AnnotationError as error:
        refusal = str(error)
    assert "m.json" in refusal and "expected" in refusal
    assert all(isinstance(entry, VideoEntry) and isinstance(entry.verdict, str) for entry in found.values())
