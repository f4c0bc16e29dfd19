"""Made-up data sets: real layouts, true answers, a mark on all that is measured, and no harm to what is real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules import HCSTVG, VidSTG
from datamodules.annotated.source import OfficialSplit
from datamodules.annotated.verify import verify
from datamodules.data_sets import open_source
from datamodules.ministvg import clip_seed, generate_scene
from datamodules.synthetic import SYNTHETIC_SETS, write_synthetic

OPTIONS: dict[str, Any] = {"expect_official_counts": False, "held_out": 0.5}


def made_up(name: str, root: Path) -> Any:
    if name == "vidstg":
        return VidSTG(root, num_frames=8, eval_num_frames=8, **OPTIONS)
    return HCSTVG(root, version="v1" if name == "hcstvg_v1" else "v2", **OPTIONS)


def clips_of(name: str, count: int) -> dict[OfficialSplit, int]:
    return dict.fromkeys(open_source(name, Path()).splits, count)


@pytest.mark.parametrize("name", SYNTHETIC_SETS)
def test_a_made_up_data_set_is_sound_and_marked(name: str, tmp_path: Path) -> None:
    root = tmp_path / name
    assert write_synthetic(name, root, clips_of(name, 2))
    found = verify(
        open_source(name, root), ("train", "test"), tmp_path / "manifest.json", expect_official_counts=False, workers=1
    )
    assert not found.failed and found.num_videos == 4
    data = made_up(name, root)
    assert data.conditions("test").dataset == f"{name}, SYNTHETIC"
    scene, record = generate_scene(clip_seed("test", 0)), data.load_records("test")[0]
    assert (record.target.start, record.target.stop) == (scene.event.start, scene.event.stop)
    boxes = scene.actors[scene.event.actor].boxes[scene.event.start : scene.event.stop]
    assert abs(record.target.boxes.numpy() - boxes).max() <= 1.0  # VidOR's are whole pixels
    types = [record.sentence_type for record in data.load_records("test")]
    assert types == (["declarative", "interrogative"] * 2 if name == "vidstg" else ["declarative"] * 2)


def test_a_folder_is_filled_once_and_one_of_another_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "v1"
    assert write_synthetic("hcstvg_v1", root, {"train": 1, "test": 1})
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")}
    assert not write_synthetic("hcstvg_v1", root, {"train": 1, "test": 1})
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.mp4")} == before
    assert write_synthetic("hcstvg_v1", root, {"train": 2, "test": 1})
    (root / "SYNTHETIC").unlink()
    with pytest.raises(ValueError, match="holds other files, perhaps the real hcstvg_v1"):
        write_synthetic("hcstvg_v1", root, {"train": 1, "test": 1})
