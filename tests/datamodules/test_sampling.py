from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.annotated.touched import fit_annotations
from datamodules.augmentation import Augmentation
from datamodules.clips import ClipDataset
from datamodules.hcstvg.format import read_hcstvg
from datamodules.pixels import PixelSource
from datamodules.quality import Draw
from datamodules.records import Record
from datamodules.sampling import EvenFrames, FramesAtRate, FramesByClock, sample_at_rate, sample_by_clock, sample_frames
from datamodules.vidstg.source import VidSTGSource
from stvg_nst.types import BackboneFeatures, Tube
from tests.datamodules.published import hcstvg_item, write_json


def test_known_choices() -> None:
    assert sample_frames(10, 4) == (0, 3, 6, 9)
    assert sample_frames(3, 8) == (0, 1, 2)
    assert sample_frames(9, 1) == (0,)


def test_rounds_as_the_reference_does_where_a_float_falls_short_of_an_exact_quotient() -> None:
    assert sample_frames(109, 100)[55] == 59  # 55 * 108 / 99 is 60


def test_spans_the_clip_evenly_and_increases() -> None:
    rng = random.Random(0)
    for _ in range(300):
        num_frames, num_samples = rng.randint(2, 2000), rng.randint(2, 200)
        ids = sample_frames(num_frames, num_samples)
        gaps = [b - a for a, b in pairwise(ids)]
        assert len(ids) == min(num_frames, num_samples)
        assert (ids[0], ids[-1]) == (0, num_frames - 1)
        # A rounding error may cost one frame more than the floor's own one.
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize(("num_frames", "num_samples"), [(0, 4), (-1, 4), (5, 0), (5, -2)])
def test_refuses_nonsense(num_frames: int, num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_frames} frames, {num_samples} samples"):
        sample_frames(num_frames, num_samples)


def test_a_rate_takes_the_first_frame_of_each_of_its_ticks_and_the_last_frame() -> None:
    assert sample_at_rate(10, fps=10, rate=3) == (0, 4, 7, 9)
    assert sample_at_rate(3, fps=10, rate=30) == (0, 1, 2)
    assert sample_at_rate(1, fps=10, rate=3) == (0,)
    assert sample_at_rate(9, fps=10, rate=float("inf")) == tuple(range(9))
    assert sample_by_clock((3, 9), fps=10, rate=float("inf"), at_most=200) == tuple(range(3, 9))
    with pytest.raises(ValueError, match="positive rates"):
        sample_at_rate(9, fps=10, rate=float("nan"))


@pytest.mark.parametrize(("num_frames", "fps", "rate"), [(0, 1.0, 1.0), (5, 0.0, 1.0), (5, 1.0, -1.0)])
def test_refuses_a_senseless_rate(num_frames: int, fps: float, rate: float) -> None:
    with pytest.raises(ValueError, match=f"got {num_frames} frames, {fps} and {rate}"):
        sample_at_rate(num_frames, fps=fps, rate=rate)


def test_a_clock_ticks_from_the_beginning_of_the_video_and_adds_no_last_frame() -> None:
    assert FramesByClock(5)(record((7, 30), 400, 25)) == (7, 10, 15, 20, 25)
    assert FramesByClock(5)(record((10, 30), 400, 25)) == (10, 15, 20, 25)
    assert FramesByClock(5)(record((3, 9), 400, 4)) == (3, 4, 5, 6, 7, 8), "a slow video gives all of its frames"
    assert FramesByClock(5, at_most=4)(record((0, 50), 400, 25)) == (0, 10, 25, 35)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rate": 0.0}, "got 0.0 and 200"), ({"at_most": 0}, "got 5.0 and 0")],
)
def test_a_clock_that_gives_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FramesByClock(**options)


@pytest.mark.parametrize(("segment", "fps"), [((5, 5), 25.0), ((0, 9), 0.0)])
def test_a_clock_needs_a_segment_and_a_rate(segment: tuple[int, int], fps: float) -> None:
    with pytest.raises(ValueError, match=rf"got frames \({segment[0]}, {segment[1]}\), {fps} and 5"):
        sample_by_clock(segment, fps=fps, rate=5, at_most=200)


def test_frames_of_hcstvg_are_those_of_tubedetr(shared: Path, tmp_path: Path) -> None:
    items = json.loads((shared / "tubedetr" / "golden" / "11_items_hcstvg.json").read_text())["items"]
    for index, item in enumerate(items):
        boxes, count = item["true_boxes_xywh"], item["frame_count"]
        annotation = hcstvg_item(bbox=boxes, st_frame=item["st_frame"], img_num=count)
        file = write_json(tmp_path / f"{index}.json", {"a.mp4": annotation})
        (found,) = read_hcstvg(file, "tubedetr").annotations
        frames = FramesByClock()(record(found.segment, count, found.fps))
        assert list(frames) == item["sampled_frames"]
        assert [frame for frame in frames if found.start <= frame < found.stop] == item["sampled_in_tube"]


def test_frames_of_vidstg_are_those_of_tubedetr(shared: Path) -> None:
    items = json.loads((shared / "tubedetr" / "golden" / "12_items_vidstg.json").read_text())["items"]
    for item in items:
        frames = FramesByClock()(record(tuple(item["segment"]), 4000, item["fps"]))
        assert list(frames) == item["sampled_frames"]


def record(segment: tuple[int, int], num_frames: int, fps: float) -> Record:
    target = Tube(segment[0], segment[0] + 1, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
    return Record("i", "c", Path("v.mp4"), "q", "declarative", target, segment, num_frames, fps, (9, 9))


def test_choices_count_from_the_beginning_of_the_video() -> None:
    assert EvenFrames(4)(record((100, 110), 400, 25)) == (100, 103, 106, 109)
    assert FramesAtRate(3)(record((100, 110), 400, 10)) == (100, 104, 107, 109)


def span(start: int, stop: int) -> Tube:
    return Tube(start, stop, torch.zeros(stop - start, 4))


def test_hcstvg_frames_are_those_of_the_published_code(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "cgstvg" / "golden" / "13_sampling_hcstvg.json").read_text())
    reading = read_hcstvg(write_json(tmp_path / "a.json", golden["annotation"]))
    items = {item.video: item for item in reading.annotations}
    assert len(golden["items"]) == 10
    for name, expected in golden["items"].items():
        item = items[name]
        assert item.boxes is not None and len(item.boxes) == expected["n_boxes"]
        assert item.boxes[[0, -1]].tolist() == [expected["bboxs_first"], expected["bboxs_last"]]
        assert [item.start, item.stop - 1] == expected["gt_temp_bound"]
        assert item.segment == (expected["first"], expected["last"] + 1)
    for clip in golden["clips"]:
        item = items[clip["vid"]]
        rate = FramesAtRate(3.2 if clip["split"] == "train" else 6.4)
        whole = replace(record(item.segment, 0, item.fps), target=span(item.start, item.stop))
        if clip["split"] == "train":
            chance = random.Random(clip["seed"])
            assert clip["frame_ids"] == list(Augmentation().choose(whole, rate, chance))
            assert clip["next_random"] == chance.random()
        else:
            assert clip["frame_ids"] == list(rate(whole))
        assert clip["actioness"] == [int(item.start <= i < item.stop) for i in clip["frame_ids"]]


def test_vidstg_frames_are_those_of_the_published_code(shared: Path, tmp_path: Path) -> None:
    golden = json.loads((shared / "cgstvg" / "golden" / "14_sampling_vidstg.json").read_text())
    write_json(tmp_path / "sent_annos" / "val_annotations.json", golden["sent_annos"])
    for item in golden["sent_annos"]:
        frames = golden["bbox_target_frames"][item["vid"]]
        content = {name: item[name] for name in ("frame_count", "height", "width")}
        content["trajectories"] = [frames.get(str(i), []) for i in range(item["frame_count"])]
        write_json(tmp_path / "bbox_annos" / f"{item['vid']}.json", content)
    source = VidSTGSource(tmp_path)
    reading = source.read("val")
    # Disjoint from the segment, or empty: the published code drops the first and keeps the second.
    assert {golden["sent_annos"][int(error.item)]["vid"] for error in reading.errors} == {"1005", "1007"}
    fitted = fit_annotations(
        reading.annotations, source.with_boxes, on_bad_box="refuse", on_short_clip="refuse", frames_in_file={}
    )
    beyond = [str(error) for error in fitted.errors]  # those are dropped, too
    assert len(beyond) == 3 and all("a tube of [50, 150)" in error for error in beyond)
    items = {item.item_id.rpartition("/")[2]: item for item in fitted.annotations}
    assert items.keys() == golden["items"].keys() - {"18", "19", "20"} and len(items) == 18
    for number, item in items.items():
        expected = golden["items"][number]
        assert item.boxes is not None and item.boxes[0].tolist() == expected["box0"]
        assert item.segment == (expected["first"], expected["last"] + 1)
        # The published code counts the exclusive end in, where it is still a frame of the segment.
        assert (item.start, min(item.stop, item.segment[1] - 1)) == tuple(expected["gt_temp_bound"])
    for clip in golden["clips"]:
        item = items.get(str(clip["item_id"]))
        if item is None:
            continue
        choose = EvenFrames(64 if clip["split"] == "train" else 128)
        # The published code counts the exclusive end in.
        whole = replace(record(item.segment, 0, item.fps), target=span(item.start, item.stop + 1))
        if clip["split"] == "train":
            chance = random.Random(clip["seed"])
            assert clip["frame_ids"] == list(Augmentation(crop_of="segment").choose(whole, choose, chance))
            assert clip["next_random"] == chance.random()
        else:
            assert clip["frame_ids"] == list(choose(whole))
        inside = [int(item.start <= i < item.stop) for i in clip["frame_ids"]]
        assert clip["actioness"] == [int(a or i == item.stop) for a, i in zip(inside, clip["frame_ids"], strict=True)]


def test_sampled_boxes_are_those_of_the_published_code(shared: Path, tmp_path: Path) -> None:
    golden = np.load(shared / "cgstvg" / "golden" / "15_getitem_hcstvg.npz")
    annotation = json.loads((shared / "cgstvg" / "golden" / "13_sampling_hcstvg.json").read_text())["annotation"]
    (item,) = read_hcstvg(write_json(tmp_path / "a.json", {"e15.mp4": annotation["e15.mp4"]})).annotations
    assert (golden["0_split"], item.query.lower()) == ("test", golden["0_sentence"])
    assert item.boxes is not None
    tube = Tube(item.start, item.stop, torch.from_numpy(item.boxes))
    source = Record("i", "c", Path("v"), "q", "declarative", tube, item.segment, 300, item.fps, item.size)
    features: Any = NoFeatures(len(golden["0_frame_ids"]))
    clip = ClipDataset([source], FramesAtRate(6.4), None, PixelSource(), features)[Draw(0, None)]
    assert list(clip.info.frame_ids) == golden["0_frame_ids"].tolist()
    assert clip.inside.int().tolist() == golden["0_actioness"].tolist()
    np.testing.assert_allclose(clip.boxes[clip.inside], golden["0_boxes"], atol=1e-6)


class NoFeatures:
    """Stands for a cache of clips of so many frames, so that nothing is decoded."""

    def __init__(self, num_frames: int) -> None:
        self.maps = torch.zeros(1, num_frames, 1, 1, 1)

    def read(self, key: str) -> BackboneFeatures:
        return BackboneFeatures(self.maps, self.maps, torch.ones(1, 1, 1).bool())
