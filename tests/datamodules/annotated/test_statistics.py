from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from datamodules.annotated.statistics import plot_statistics, split_statistics
from datamodules.data_sets import open_source
from tests.datamodules.published import hcstvg_item, vidstg_item, write_json


def test_numbers_of_a_small_split(vidstg: Callable[..., Path]) -> None:
    other = {"used_segment": {"begin_fid": 0, "end_fid": 19}, "questions": []}
    root = vidstg(val=[vidstg_item("1001"), vidstg_item("1001", **other), vidstg_item("1002")])
    found = split_statistics(open_source("vidstg", root), "val")
    assert (found.num_videos, found.num_clips, found.num_declarative, found.num_interrogative) == (2, 3, 3, 2)
    by_name = {(d.title, d.unit): d for d in found.distributions}
    assert sorted(by_name["clip length", "seconds"].values) == [1.5, 1.5, 2.0]
    assert by_name["tube length", "seconds"].percentiles() == [pytest.approx(0.6)] * 5
    assert sorted(by_name["tube length", "share of the clip"].values) == pytest.approx([0.3, 0.4, 0.4, 0.4, 0.4])
    assert by_name["box size", "root of the share of the frame"].values == pytest.approx(
        [(20 / 64 * 37 / 48) ** 0.5] * 5
    )
    assert by_name["way from first to last box", "frame sides"].values == pytest.approx([5 / 64] * 5)
    assert found.absent == ()


def test_of_a_tube_only_what_is_shown_is_a_share_of_the_clip(vidstg: Callable[..., Path]) -> None:
    root = vidstg(val=[vidstg_item(used_segment={"begin_fid": 8, "end_fid": 16})])
    by_name = {(d.title, d.unit): d for d in split_statistics(open_source("vidstg", root), "val").distributions}
    assert by_name["tube length", "share of the clip"].values == pytest.approx([4 / 9] * 2)


def test_what_is_absent_is_told(tmp_path: Path) -> None:
    items = {"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item(img_num=2)}
    write_json(tmp_path / "annos/hcstvg_v1/test.json", items)
    found = split_statistics(open_source("hcstvg_v1", tmp_path), "test")
    faulty, videos = found.absent
    assert faulty.startswith("1 faulty sentences") and "item 'b.mp4'" in faulty
    assert videos == f"1 of 1 video files; the first: '{tmp_path / 'v1_video' / 'a.mp4'}'"
    write_json(tmp_path / "annos/hcstvg_v1/train.json", {"b.mp4": hcstvg_item(img_num=2)})
    with pytest.raises(ValueError, match="no sentence without fault"):
        split_statistics(open_source("hcstvg_v1", tmp_path), "train")


def test_the_picture_is_a_png(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item(st_frame=1)})
    found = split_statistics(open_source("hcstvg_v1", root), "test")
    plot_statistics(found, "a title", root / "pictures" / "a.png")
    picture = cv2.imread(str(root / "pictures" / "a.png"))
    assert picture is not None and picture.std() > 5
    assert [path.name for path in (root / "pictures").iterdir()] == ["a.png"]
    with pytest.raises(ValueError, match=r"written as PNG and must be named so, got 'a\.jpg'"):
        plot_statistics(found, "a title", Path("a.jpg"))
