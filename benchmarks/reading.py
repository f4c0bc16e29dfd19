"""What a run reads besides pixels, and how long that takes: `make bench-reading`.

Annotations of VidSTG are read before the first batch, the boxes of its sentences from VidOR's files; cached features
with every clip. Both are made up, at the published sizes. Numbers are medians over repetitions, in seconds of the
processor, with files that the system has in memory.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is loaded

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.data import measure, table_of
from datamodules.caches.features import ClipVersion, FeatureCache, FeatureWriter
from datamodules.caches.frames import FramesOfClip
from datamodules.clips import limit_threads
from datamodules.degradation.golden_pixels import PixelOrigin
from datamodules.vidstg.source import VidSTGSource

NUM_FRAMES, NUM_OBJECTS, SIZE, FPS = 600, 6, (360, 640), 30.0
RELATIONS, TUBE = 20, 150  # of a film, and frames of each; a relation has a caption and a question
VERSIONS = {  # (T, h, w), appearance and motion channels of a clip's cached features
    "MiniSTVG": ((16, 8, 8), 128, 96),
    "64 frames of 420 x 588": ((64, 14, 19), 2048, 768),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=20, help="of VidSTG")
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    limit_threads(0)
    console = Console(highlight=False, width=110)
    sentences = 2 * RELATIONS * options.films
    console.print(
        f"{sentences} sentences of {options.films} films, {NUM_FRAMES} frames and {NUM_OBJECTS} objects each, tubes of "
        f"{TUBE} frames; medians of {options.repetitions}"
    )
    with tempfile.TemporaryDirectory() as name:
        console.print(annotation_table(write_annotations(Path(name), options.films), sentences, options.repetitions))
        console.print(feature_table(Path(name), options.repetitions))


# --- annotations ------------------------------------------------------------------------------------------------------


def annotation_table(root: Path, sentences: int, repetitions: int) -> Table:
    def read_with_boxes() -> None:
        source = VidSTGSource(root)
        found, errors = source.with_boxes(source.read("val").annotations)
        assert len(found) == sentences and not errors

    works = {"sentences": lambda: VidSTGSource(root).read("val"), "with the boxes of their targets": read_with_boxes}
    table = table_of("annotations of VidSTG", "ms a sentence")
    for name, seconds in measure(works, repetitions, time.process_time).items():
        table.add_row(name, f"{1e3 * seconds / sentences:.2f}")
    return table


def write_annotations(root: Path, films: int) -> Path:
    """The official form: relations in one file, boxes in one of VidOR's for each film."""
    for folder in ("sent_annos", "bbox_annos"):
        (root / folder).mkdir()
    relations = [relation for film in range(films) for relation in relations_of(film)]
    (root / "sent_annos" / "val_annotations.json").write_text(json.dumps(relations))
    for film in range(films):
        (root / "bbox_annos" / f"{film}.json").write_text(json.dumps(trajectories_of(film)))
    return root


def relations_of(film: int) -> Iterator[dict[str, Any]]:
    for index in range(RELATIONS):
        subject, target = index % NUM_OBJECTS, (index + 1) % NUM_OBJECTS
        begin = index * (NUM_FRAMES - TUBE) // RELATIONS
        span = {"begin_fid": begin, "end_fid": begin + TUBE}
        yield {
            "vid": str(film),
            **{"fps": FPS, "frame_count": NUM_FRAMES, "height": SIZE[0], "width": SIZE[1]},
            "subject/objects": [{"tid": tid, "category": "adult"} for tid in range(NUM_OBJECTS)],
            "used_segment": {"begin_fid": 0, "end_fid": NUM_FRAMES - 1},
            "used_relation": {"subject_tid": subject, "object_tid": target, "predicate": "watch", **span},
            "temporal_gt": span,
            "captions": [{"description": "an adult watches another adult.", "type": "person", "target_id": subject}],
            "questions": [{"description": "who is watched by an adult?", "type": "person", "target_id": target}],
        }


def trajectories_of(film: int) -> dict[str, Any]:
    def box(frame: int, tid: int) -> dict[str, int]:
        x, y = (3 * frame + 50 * tid) % 500, (frame + 30 * tid) % 200
        return {"xmin": x, "ymin": y, "xmax": x + 90, "ymax": y + 120}

    frames = [
        [{"tid": tid, "bbox": box(frame, tid), "generated": 0, "tracker": "none"} for tid in range(NUM_OBJECTS)]
        for frame in range(NUM_FRAMES)
    ]
    return {
        "video_id": str(film),
        **{"fps": FPS, "frame_count": NUM_FRAMES, "height": SIZE[0], "width": SIZE[1]},
        "trajectories": frames,
    }


# --- features ---------------------------------------------------------------------------------------------------------


def feature_table(folder: Path, repetitions: int) -> Table:
    caches = {name: write_features(folder / name, shape, channels) for name, (shape, *channels) in VERSIONS.items()}
    works = {name: lambda cache=cache: cache.read("clip") for name, cache in caches.items()}
    table = table_of("cached features of a clip", "MB", "ms to read")
    for name, seconds in measure(works, repetitions, time.process_time).items():
        table.add_row(name, f"{caches[name].largest_version_bytes * 1e-6:.1f}", f"{1e3 * seconds:.1f}")
    return table


def write_features(folder: Path, shape: tuple[int, int, int], channels: list[int]) -> FeatureCache:
    frames, height, width = shape
    clip = FramesOfClip("clip", folder / "clip.mp4", tuple(range(frames)), SIZE)
    with FeatureWriter(folder, {}, "none", PixelOrigin("on the fly", None)) as writer:
        appearance, motion = (torch.rand(frames, width_of, height, width) for width_of in channels)
        writer.add_features(ClipVersion("clip", clip, 0), appearance, motion)
    return FeatureCache(folder, {})


if __name__ == "__main__":
    main()
