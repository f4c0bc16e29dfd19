"""Where files are found: videos and VidOR's annotations in subfolders, linked ones among them."""

from __future__ import annotations

from pathlib import Path

from datamodules.hcstvg.source import HCSTVGSource
from datamodules.vidstg.source import VidSTGSource


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_videos_and_trajectories_lie_in_linked_folders(tmp_path: Path) -> None:
    disk, root = tmp_path / "disk", tmp_path / "vidstg"
    touch(disk / "video" / "0001" / "1001.mp4")
    touch(disk / "annotation" / "0001" / "1001.json")
    link(root / "videos" / "training", disk / "video")
    link(root / "bbox_annos" / "training", disk / "annotation")
    source = VidSTGSource(root)
    assert source.video_file("1001") == root / "videos" / "training" / "0001" / "1001.mp4"
    assert source.trajectory_file("1001") == root / "bbox_annos" / "training" / "0001" / "1001.json"


def test_a_video_may_be_a_link_itself(tmp_path: Path) -> None:
    link(tmp_path / "v1_video" / "part" / "a.mp4", touch(tmp_path / "disk" / "a.mp4"))
    assert HCSTVGSource(tmp_path, "v1").video_file("a.mp4") == tmp_path / "v1_video" / "part" / "a.mp4"


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    root = tmp_path / "vidstg"
    video, trajectory = touch(root / "videos" / "part" / "1001.mp4"), touch(root / "bbox_annos" / "part" / "1001.json")
    for folder in (root / "videos", root / "bbox_annos"):
        link(folder / "part" / "again", folder)
        link(folder / "a", tmp_path)  # above the folder, and walked before its own
        link(folder / "z", folder / "part")
    source = VidSTGSource(root)
    assert (source.video_file("1001"), source.trajectory_file("1001")) == (video, trajectory)


def test_of_two_videos_of_one_name_the_first_path_stands(tmp_path: Path) -> None:
    folder = tmp_path / "v1_video"
    touch(folder / "c" / "a.mp4")
    link(folder / "b", touch(tmp_path / "disk" / "a.mp4").parent)
    assert HCSTVGSource(tmp_path, "v1").video_file("a.mp4") == folder / "b" / "a.mp4"


def test_a_folder_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "v1_video" / "a" / "x.mp4").mkdir(parents=True)
    video = touch(tmp_path / "v1_video" / "b" / "x.mp4")
    assert HCSTVGSource(tmp_path, "v1").video_file("x.mp4") == video
