"""VidSTG as a data module: segments of untrimmed videos, both forms, both ways to validate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules import VidSTG
from tests.datamodules.published import merged_item, vidstg_item, write_clip, write_json

VIDEOS = [str(1000 + i) for i in range(8)]


def module(root: Path, **changes: Any) -> VidSTG:
    options = {"expect_official_counts": False, "num_workers": 0, "resolution": 32, "eval_num_frames": 5, **changes}
    return VidSTG(root, **options)


def test_segments_are_shown_and_both_types_of_sentences_asked(vidstg: Callable[..., Path]) -> None:
    data = module(vidstg(test=[vidstg_item()]), eval_batch_size=4)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert [info.sentence_type for info in batch.clips] == ["declarative"] * 2 + ["interrogative"] * 2
    assert batch.clips[0].frame_ids == (2, 5, 9, 12, 16)
    assert batch.inside.tolist() == [[False, False, True, False, False]] * 4
    # Object 1 on frame 9: (18, 3, 38, 40) of 64 x 48.
    assert batch.boxes[0, 2].tolist() == pytest.approx([28 / 64, 21.5 / 48, 20 / 64, 37 / 48])
    assert batch.frames.shape == (4, 5, 3, 32, 42)
    first, second = data.records["test"]
    assert first.clip_id == second.clip_id and batch.clips[1].degradation == batch.clips[3].degradation


def test_the_merged_form_gives_the_same_records(tmp_path: Path, vidstg: Callable[..., Path]) -> None:
    official = module(vidstg(test=[vidstg_item()])).load_records("test")
    root = tmp_path / "merged"
    write_json(root / "vstg_annos" / "test.json", {str(n): merged_item(n) for n in (0, 1)})
    write_clip(root / "video" / "1001.mp4")
    for ours, theirs in zip(module(root).load_records("test"), official, strict=True):
        assert (ours.item_id, ours.query, ours.segment) == (theirs.item_id, theirs.query, theirs.segment)
        assert (ours.target.boxes == theirs.target.boxes).all() and ours.video.is_file() and theirs.video.is_file()


def test_validation_is_held_out_or_official(vidstg: Callable[..., Path]) -> None:
    root = vidstg(train=[vidstg_item(video) for video in VIDEOS], val=[vidstg_item("2000")])

    def videos(data: VidSTG, split: Any) -> set[str]:
        return {record.item_id.partition("/")[0] for record in data.load_records(split)}

    held_out, official = module(root, held_out=0.5), module(root, validation="official")
    assert videos(held_out, "train") | videos(held_out, "val") == set(VIDEOS)
    assert not videos(held_out, "train") & videos(held_out, "val")
    assert videos(official, "train") == set(VIDEOS) and videos(official, "val") == {"2000"}
    assert held_out.provenance() != official.provenance()
    with pytest.raises(ValueError, match="or set validation to official"):
        module(root, held_out=0.0)


def test_missing_trajectories_stop_a_run(vidstg: Callable[..., Path]) -> None:
    root = vidstg(test=[vidstg_item()])
    (root / "bbox_annos" / "0001" / "1001.json").unlink()
    with pytest.raises(ValueError, match=r"bbox_annos/1001\.json': expected VidOR's annotation of video 1001"):
        module(root).load_records("test")


def test_real_sentences_over_synthetic_videos(shared: Path, tmp_path: Path) -> None:
    real = json.loads((shared / "vidstg" / "val_annotations.json").read_text())
    items = sorted(real, key=lambda item: item["frame_count"])[:3]
    for item in items:
        box = {"xmin": 10, "ymin": 20, "xmax": item["width"], "ymax": item["height"]}
        objects = [{"tid": entry["tid"], "bbox": box} for entry in item["subject/objects"]]
        content = {name: item[name] for name in ("frame_count", "width", "height")}
        content["trajectories"] = [objects] * item["frame_count"]
        write_json(tmp_path / "bbox_annos" / "0001" / f"{item['vid']}.json", content)
        size = (item["height"], item["width"])
        write_clip(tmp_path / "videos" / "0001" / f"{item['vid']}.mp4", num_frames=item["frame_count"], size=size)
    write_json(tmp_path / "sent_annos" / "val_annotations.json", items)
    data = module(tmp_path, validation="official", eval_num_frames=4)
    data.setup_split("val")
    data.caches["val"] = None
    batches = list(data.val_dataloader())
    assert len(batches) == 2 * sum(len(item["captions"]) + len(item["questions"]) for item in items)
    for batch in batches:
        assert batch.frames.shape[-2] == 32 and batch.frames.isfinite().all()
        info = batch.clips[0]
        assert info.target.boxes[0].tolist() == [10, 20, info.native_size[1], info.native_size[0]]
