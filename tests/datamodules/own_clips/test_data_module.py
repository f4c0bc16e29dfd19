"""A folder of own clips: verified, split by video, shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import OwnClips
from datamodules.annotated import AnnotationError
from datamodules.annotated.statistics import split_statistics
from datamodules.annotated.verify import Verification, verify
from datamodules.clips import describe_sample
from datamodules.degradation.dataset import DegradedCopy
from datamodules.own_clips.format import read_lines
from datamodules.own_clips.source import SPLITS, OwnClipsSource, split_videos
from datamodules.sampling import FramesByClock
from datamodules.splits import Split
from tests.datamodules.published import own_line, write_clip

VIDEOS = [f"cam/{index}.mp4" for index in range(12)]
OPTIONS: dict[str, Any] = {"num_workers": 0, "resolution": 32}


def look(root: Path) -> Verification:
    return verify(OwnClipsSource(root), SPLITS, root / "own_clips.manifest.json", workers=1)


def videos_of(root: Path, split: Split) -> set[str]:
    return {record.item_id.rpartition("/")[0] for record in OwnClips(root, **OPTIONS).load_records(split)}


def test_verify_decodes_once_what_the_annotations_do_not_say(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*map(own_line, VIDEOS[:3]))
    first, second = look(root), look(root)
    assert (first.faults, first.num_videos, first.num_checked) == ((), 3, 3)
    assert (second.faults, second.num_videos, second.num_checked) == ((), 3, 0)


def test_a_video_is_in_one_split_by_its_name_alone(own_clips: Callable[..., Path]) -> None:
    lines = [own_line(video, sentence=words) for video in VIDEOS for words in ("a man waves", "who waves?")]
    root = own_clips(*lines)
    look(root)
    splits = {split: videos_of(root, split) for split in SPLITS}
    assert sorted(video for videos in splits.values() for video in videos) == sorted(VIDEOS)
    assert all(splits.values()) and len(splits["train"]) > len(splits["test"])
    (root / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in reversed(lines)))
    assert {split: videos_of(root, split) for split in SPLITS} == splits


def test_no_split_of_few_videos_is_empty(own_clips: Callable[..., Path]) -> None:
    """Names that a hash would all hold out: two of three for the test, and three of four."""
    for videos in ([f"v4_{index}.mp4" for index in range(3)], [f"v48_{index}.mp4" for index in range(4)]):
        lines = read_lines(own_clips(*map(own_line, videos)) / "annotations.jsonl").lines
        assert sorted(set(split_videos(lines)[0].values())) == ["test", "train", "val"]


@pytest.mark.parametrize(
    ("with_tube", "counts"),
    [(0, (0, 3, 27)), (1, (1, 2, 27)), (2, (1, 1, 28)), (30, (6, 2, 22))],
)
def test_videos_without_a_tube_are_for_training(tmp_path: Path, with_tube: int, counts: tuple[int, int, int]) -> None:
    tubeless = {"start": None, "stop": None, "boxes": None}
    lines = [own_line(f"{index}.mp4", **({} if index < with_tube else tubeless)) for index in range(30)]
    (tmp_path / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    source = OwnClipsSource(tmp_path)
    split_of = {split: source.lines_of(split) for split in SPLITS}
    assert tuple(len(split_of[split]) for split in ("test", "val", "train")) == counts
    assert all(line.has_tube for line in split_of["test"])
    assert with_tube < 2 or all(line.has_tube for line in split_of["val"])


def test_too_few_videos_hide_no_line_that_cannot_be_read(own_clips: Callable[..., Path]) -> None:
    root = own_clips(own_line(VIDEOS[0]))
    with (root / "annotations.jsonl").open("a") as file:
        file.write("{'video': 'cam/1.mp4'}\n")
    found = [fault.what for fault in look(root).faults]
    assert len(found) == 2 and found[0].startswith("expected JSON") and found[1].startswith("expected at least three")


def test_a_fault_of_the_file_is_told_once(tmp_path: Path) -> None:
    (found,) = look(tmp_path).faults
    assert (found.where, found.what) == (str(tmp_path / "annotations.jsonl"), "missing")
    (tmp_path / "annotations.jsonl").write_text("[]")
    (found,) = look(tmp_path).faults
    assert found.what.endswith("got a list of 0")


def test_lines_may_say_the_split_themselves(own_clips: Callable[..., Path]) -> None:
    wanted = dict(zip(VIDEOS, SPLITS, strict=False))
    root = own_clips(*(own_line(video, split=split) for video, split in wanted.items()))
    assert not look(root).failed
    assert {split: videos_of(root, split) for split in SPLITS} == {s: {v} for v, s in wanted.items()}


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("train", "val", None), "line 3', field 'split': expected this field, as other lines have it"),
        (("train", "val", "train", "test"), "line 4', field 'split': expected 'train', as another line about"),
        ((None, None), "expected at least three videos, .* got 2 videos and no 'split'"),
    ],
)
def test_a_split_that_is_left_open_is_a_fault(
    own_clips: Callable[..., Path], splits: tuple[str | None, ...], message: str
) -> None:
    videos = [*VIDEOS[: len(splits)][:3], VIDEOS[2]]
    root = own_clips(*(own_line(video, split=split) for video, split in zip(videos, splits, strict=False)))
    assert look(root).failed
    with pytest.raises(AnnotationError, match=message):
        OwnClips(root, **OPTIONS).load_records("train")


def test_lines_without_a_tube_are_to_be_tuned_on_and_measure_nothing(own_clips: Callable[..., Path]) -> None:
    tubeless = {"start": None, "stop": None, "boxes": None}
    videos = dict(zip(SPLITS, VIDEOS, strict=False))
    lines = [own_line(video, split=split) for split, video in videos.items()]
    root = own_clips(*lines, own_line(videos["train"], split="train", **tubeless))
    found = look(root)
    said = "1 of 4 sentences have no tube: only --model.annotated false tunes by them"
    assert not found.failed and found.notes == (said,)
    statistics = split_statistics(OwnClipsSource(root), "train")
    assert statistics.absent == (said.replace("4", "2"),)
    counts = {of.title: len(of.values) for of in statistics.distributions}
    assert (counts["sentence length"], counts["tube length"], counts["box size"]) == (2, 1, 1)
    first, second = OwnClips(root, **OPTIONS).load_records("train")
    assert first.has_tube and not second.has_tube

    root = own_clips(*(own_line(video, split=split, **tubeless) for split, video in videos.items()))
    assert len(look(root).faults) == 1, "that of the test, which measures"
    for split in ("train", "val"):
        assert not OwnClips(root, **OPTIONS).load_records(split)[0].has_tube
    with pytest.raises(AnnotationError, match="'test' is measured by it, got a line without start, stop and boxes"):
        OwnClips(root, **OPTIONS).load_records("test")


def test_clips_are_shown_in_both_qualities(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*map(own_line, VIDEOS))
    look(root)
    by_clock = OwnClips(root, frame_rate=None, sampling=FramesByClock(5.0), **OPTIONS)
    assert by_clock.frame_choice("test") == FramesByClock(5.0)
    data = OwnClips(root, frame_rate=None, num_frames=5, eval_batch_size=2, **OPTIONS)
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.frames.shape[:4] == (2, 5, 3, 32)
    assert [info.degradation is None for info in batch.clips] == [True, False]


def test_a_name_that_two_splits_use_shows_the_video_of_each(own_clips: Callable[..., Path]) -> None:
    root = own_clips(
        *(own_line(video, split=split, item_id="mine") for video, split in zip(VIDEOS, SPLITS, strict=False))
    )
    look(root)
    data = OwnClips(root, **OPTIONS)
    for split in SPLITS:
        data.setup_split(split)
    (root / VIDEOS[0]).unlink()
    (record,) = data.records["val"]
    assert len(data.pixels(describe_sample(record, (0, 3), None))) == 2, "of the one that is still there"


def test_numbers_under_other_annotations_do_not_compare(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*map(own_line, VIDEOS[:3]))
    before = OwnClips(root, **OPTIONS).conditions("test")
    own_clips(*map(own_line, VIDEOS[:3]), own_line(VIDEOS[0], sentence="who is it?"))
    assert OwnClips(root, **OPTIONS).conditions("test") != before and before.dataset.startswith(
        "own_clips, annotations "
    )


def test_a_copy_in_low_quality_can_be_written_and_read(own_clips: Callable[..., Path], tmp_path: Path) -> None:
    root = own_clips(*map(own_line, VIDEOS[:3]), own_line(VIDEOS[0], part=[0.2, 1.8]))
    look(root)
    copy = DegradedCopy(OwnClipsSource(root), SPLITS, tmp_path / "lq")
    assert len(copy.clips) == 4 and copy.write(workers=1, time_limit=60.0) == {}
    data = OwnClips(root, degraded=tmp_path / "lq", **OPTIONS)
    data.setup("test")
    assert [info.degradation is None for batch in data.test_dataloader() for info in batch.clips] == [True, False]


def test_without_a_manifest_the_command_that_makes_one_is_named(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*map(own_line, VIDEOS[:3]))
    with pytest.raises(FileNotFoundError, match=r"run `python -m stvg_nst data verify own_clips "):
        OwnClips(root, **OPTIONS).load_records("train")


def test_a_video_that_has_changed_or_does_not_decode_is_a_fault(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*(own_line(video, split=split) for video, split in zip(VIDEOS, SPLITS, strict=False)))
    look(root)
    write_clip(root / VIDEOS[0], num_frames=30)
    with pytest.raises(AnnotationError, match="another file than when it was verified"):
        OwnClips(root, **OPTIONS).load_records("train")
    (root / VIDEOS[2]).write_bytes(b"a web page")
    found = look(root)
    assert found.failed and "unreadable" in found.faults[0].what and found.num_checked == 2
    assert len(OwnClips(root, **OPTIONS).load_records("train")) == 1
    with pytest.raises(AnnotationError, match="unreadable"):
        OwnClips(root, **OPTIONS).load_records("test")
    skipping = OwnClips(root, on_bad_video="skip", **OPTIONS)
    with pytest.raises(ValueError, match=r"the test split of own_clips .* is empty"):
        skipping.load_records("test")


def test_clips_that_are_too_long_for_the_network_are_refused(own_clips: Callable[..., Path]) -> None:
    root = own_clips(*map(own_line, VIDEOS[:3]))
    look(root)
    with pytest.raises(ValueError, match=r"the test split has 1 clip longer than the network's 1.5 s.* \(2.0 s\)"):
        OwnClips(root, longest_clip=1.5, **OPTIONS).load_records("test")
    assert OwnClips(root, longest_clip=1.9, **OPTIONS).load_records("test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 8}, "the others are null, got 3.2, 8, None"),
        ({"frame_rate": None}, "the others are null, got None, None, None"),
        ({"sampling": FramesByClock(5.0)}, "the others are null, got 3.2, None, FramesByClock"),
        ({"frame_rate": 0.0}, "frame_rate must be positive, got 0"),
        ({"held_out": 0.1}, "held_out must be 0, got 0.1"),
        ({"convention": "tubedetr"}, "convention tubedetr is about published files"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OwnClips(tmp_path, **options)


def test_a_degraded_copy_never_takes_the_place_of_the_clips(
    own_clips: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the folder is named by its place alone: `..` in the name of a file would lead back to the clips."""
    root = own_clips(*map(own_line, VIDEOS[:3]))
    look(root)
    monkeypatch.chdir(root / "cam")
    for source, out in (("..", "../lq"), (str(root), "../lq")):
        copy = DegradedCopy(OwnClipsSource(Path(source)), SPLITS, Path(out))
        assert {clip.path for clip in copy.clips} == {f"{root.name}/{video}" for video in VIDEOS[:3]}
    with pytest.raises(ValueError, match=r"would replace the videos in '\.\.' that it is made from; choose another"):
        DegradedCopy(OwnClipsSource(Path("..")), SPLITS, root.parent)
