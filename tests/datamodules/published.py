"""Small data sets in the published layouts: synthetic videos, and annotations that tests may spoil."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.video import write_video

SIZE = (48, 64)
NUM_FRAMES = 20
FPS = 10.0


def write_clip(path: Path, *, num_frames: int = NUM_FRAMES, size: tuple[int, int] = SIZE, seed: int = 0) -> Path:
    """A video of smooth noise that drifts, different for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(40, 200, (6, 8, 3)).repeat(8, axis=0).repeat(8, axis=1)
    frames = (np.roll(noise, index, axis=1) for index in range(num_frames))
    write_video(path, (np.resize(frame, (*size, 3)).astype(np.uint8) for frame in frames), FPS)
    return path


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def hcstvg_item(**changes: Any) -> dict[str, Any]:
    """Frames 4 to 9 of 20, counted from 1, in version 1's field names."""
    item = {
        "bbox": [[4.0 + i, 6.0, 20.0, 30.0] for i in range(6)],
        "st_frame": 4,
        "img_num": NUM_FRAMES,
        "st_time": 0.3,
        "ed_time": 0.8,
        "width": SIZE[1],
        "height": SIZE[0],
        "caption": "The man in black turns Left.",
    }
    return {name: value for name, value in {**item, **changes}.items() if value is not None}


def vidstg_item(video: str = "1001", **changes: Any) -> dict[str, Any]:
    """A caption about object 1 and a question about object 0, over frames [6, 12) of a segment of 15 frames."""
    item = {
        "vid": video,
        "fps": FPS,
        "frame_count": NUM_FRAMES,
        "width": SIZE[1],
        "height": SIZE[0],
        "subject/objects": [{"tid": 0, "category": "adult"}, {"tid": 1, "category": "dog"}],
        "used_segment": {"begin_fid": 2, "end_fid": 16},
        "used_relation": {"subject_tid": 0, "object_tid": 1, "predicate": "watch", "begin_fid": 6, "end_fid": 12},
        "temporal_gt": {"begin_fid": 6, "end_fid": 12},
        "captions": [{"description": "There is a dog, watched by the adult.", "type": "object", "target_id": 1}],
        "questions": [{"description": "who watches the dog?", "type": "person", "target_id": 0}],
    }
    return {name: value for name, value in {**item, **changes}.items() if value is not None}


def vidor_file(**changes: Any) -> dict[str, Any]:
    """VidOR's annotation of such a video: two objects that move right, on frames [5, 13)."""

    def objects(frame: int) -> list[dict[str, Any]]:
        if not 5 <= frame < 13:
            return []
        return [
            {"tid": tid, "bbox": {"xmin": frame + 9 * tid, "ymin": 3, "xmax": frame + 20 + 9 * tid, "ymax": 40}}
            for tid in (0, 1)
        ]

    return {
        "video_id": "1001",
        "frame_count": NUM_FRAMES,
        "fps": FPS,
        "width": SIZE[1],
        "height": SIZE[0],
        "trajectories": [objects(frame) for frame in range(NUM_FRAMES)],
        **changes,
    }


def merged_item(number: int, video: str = "1001", **changes: Any) -> dict[str, Any]:
    """The caption or the question of :func:`vidstg_item`, by the parity of its number, with the boxes of its target."""
    source, name = vidstg_item(video), ("captions", "questions")[number % 2]
    sentence = source[name][0]
    frames = vidor_file()["trajectories"][6:13]
    item = {
        **{key: source[key] for key in ("vid", "fps", "width", "height", "used_segment")},
        "frame_count": 15,
        "temp_gt": {"begin_fid": 4, "end_fid": 10},
        "ori_temp_gt": {"begin_fid": 6, "end_fid": 12},
        "id": number,
        "qtype": ("declar", "inter")[number % 2],
        "sentence": sentence,
        "target_category": "dog",
        "target_bboxs": [objects[sentence["target_id"]]["bbox"] for objects in frames],
    }
    return {key: value for key, value in {**item, **changes}.items() if value is not None}


def own_line(video: str = "cam/a.mp4", **changes: Any) -> dict[str, Any]:
    """A box that moves right by a pixel a frame, on frames [4, 12) of 20, in seconds."""
    boxes = [{"at": 0.4, "box": [4, 6, 20, 30]}, {"at": 1.2, "box": [12, 6, 28, 30]}]
    line = {"video": video, "sentence": "The man waves.", "start": 0.4, "stop": 1.2, "boxes": boxes}
    return {name: value for name, value in {**line, **changes}.items() if value is not None}
