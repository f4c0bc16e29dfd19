"""Made-up stand-ins for HC-STVG and VidSTG: clips of MiniSTVG under the file names and in the fields of their authors.

They show that an experiment on the real data runs from its files to its tables. Their numbers say nothing else, and so
every result that is measured on them is marked by :data:`~stvg_nst.results.conditions.SYNTHETIC`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.annotated.source import OfficialSplit
from datamodules.hcstvg.format import CLIP_SECONDS
from datamodules.ministvg import FPS, FRAME_SIZE, NUM_FRAMES, Scene, clip_seed, generate_scene, render
from datamodules.video import write_video
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.results.conditions import SYNTHETIC

# Which clips of MiniSTVG stand for which published split.
_SPLITS: Mapping[OfficialSplit, str] = {"train": "tune", "val": "val", "test": "test"}
_PART = "0000"  # VidOR spreads its files over numbered folders
_ABOUT = """\
SYNTHETIC: `python -m stvg_nst data synthetic {name}` made this folder. Its films are rendered, and its sentences are
MiniSTVG's. Results of it are marked by the name of this file, and say nothing about {name}.
"""


def write_synthetic(name: str, root: Path, clips: Mapping[OfficialSplit, int]) -> bool:
    """Writes a small data set in a published layout; the mark comes last, so that one that is cut short is begun anew.

    Args:
        name: ``hcstvg_v1``, ``hcstvg_v2`` or ``vidstg``.
        root: its folder; docs/data.md shows what lies where.
        clips: how many there are of each published split.

    Returns:
        Whether anything was written: not where the same was written before.

    Raises:
        ValueError: the folder holds something else, such as the real data set.
    """
    content = _ABOUT.format(name=name) + "".join(f"{split}: {count} clips\n" for split, count in clips.items())
    mark, begun = root / SYNTHETIC, root / f".{SYNTHETIC}"
    if mark.is_file() and mark.read_text(encoding="utf-8") == content:
        return False
    if root.is_dir() and any(root.iterdir()) and not (mark.is_file() or begun.is_file()):
        raise ValueError(f"'{root}' holds other files, perhaps the real {name}; name an empty folder")
    write_whole(begun, content)
    mark.unlink(missing_ok=True)
    write = SYNTHETIC_SETS[name]
    for split, count in clips.items():
        write(root, split, [(f"{split}{i:06d}", generate_scene(clip_seed(_SPLITS[split], i))) for i in range(count)])
    write_whole(mark, content)
    begun.unlink()
    return True


def _write_hcstvg(root: Path, split: OfficialSplit, scenes: Iterable[tuple[str, Scene]], *, version: str) -> None:
    """A film of its own for each clip: the eleven letters behind the number name it."""
    items = {}
    for number, (name, scene) in enumerate(scenes):
        file = f"{number}_{name[-11:]:_>11}.mp4"
        write_video(root / f"{version}_video" / file, render(scene), NUM_FRAMES / CLIP_SECONDS)
        items[file] = _hcstvg_item(scene, version)
    write_whole(root / "annos" / f"hcstvg_{version}" / f"{split}.json", json.dumps(items))


def _hcstvg_item(scene: Scene, version: str) -> dict[str, Any]:
    start, stop = scene.event.start, scene.event.stop
    boxes = scene.actors[scene.event.actor].boxes[start:stop]
    rate = NUM_FRAMES / CLIP_SECONDS
    item: dict[str, Any] = {
        "bbox": np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(2).tolist(),
        "st_frame": start + 1,
        "img_num": NUM_FRAMES,
        "st_time": round(start / rate, 3),
        "ed_time": round(stop / rate, 3),
    }
    if version == "v2":
        return item | {"img_size": list(FRAME_SIZE), "English": scene.declarative}
    return item | {"height": FRAME_SIZE[0], "width": FRAME_SIZE[1], "caption": scene.declarative}


def _write_vidstg(root: Path, split: OfficialSplit, scenes: Iterable[tuple[str, Scene]]) -> None:
    items = []
    for name, scene in scenes:
        write_video(root / "videos" / _PART / f"{name}.mp4", render(scene), FPS)
        measures = {"frame_count": NUM_FRAMES, "fps": FPS, "height": FRAME_SIZE[0], "width": FRAME_SIZE[1]}
        trajectories = [_vidor_objects(scene, frame) for frame in range(NUM_FRAMES)]
        vidor = {"video_id": name, **measures, "trajectories": trajectories}
        write_whole(root / "bbox_annos" / _PART / f"{name}.json", json.dumps(vidor))
        items.append({"vid": name, **measures, **_vidstg_relation(scene)})
    write_whole(root / "sent_annos" / f"{split}_annotations.json", json.dumps(items))


def _vidor_objects(scene: Scene, frame: int) -> list[dict[str, Any]]:
    corners = ("xmin", "ymin", "xmax", "ymax")
    # Whole pixels, as VidOR has them.
    boxes = [[*np.floor(actor.boxes[frame, :2]), *np.ceil(actor.boxes[frame, 2:])] for actor in scene.actors]
    return [
        {"tid": tid, "bbox": dict(zip(corners, map(int, box), strict=True)), "generated": 0}
        for tid, box in enumerate(boxes)
    ]


def _vidstg_relation(scene: Scene) -> dict[str, Any]:
    """``temporal_gt`` leaves its last frame out, ``used_segment`` counts it in."""
    target, span = scene.event.actor, {"begin_fid": scene.event.start, "end_fid": scene.event.stop}
    return {
        "subject/objects": [{"tid": tid, "category": actor.looks.shape} for tid, actor in enumerate(scene.actors)],
        "used_segment": {"begin_fid": 0, "end_fid": NUM_FRAMES - 1},
        "used_relation": {"subject_tid": target, "object_tid": target, "predicate": "acts", **span},
        "temporal_gt": span,
        "captions": [{"description": scene.declarative, "type": "subject", "target_id": target}],
        "questions": [{"description": scene.interrogative, "type": "subject", "target_id": target}],
    }


SYNTHETIC_SETS: Mapping[str, Callable[[Path, OfficialSplit, Iterable[tuple[str, Scene]]], None]] = {
    "hcstvg_v1": partial(_write_hcstvg, version="v1"),
    "hcstvg_v2": partial(_write_hcstvg, version="v2"),
    "vidstg": _write_vidstg,
}
