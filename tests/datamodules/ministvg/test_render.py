"""Pixels: reproducible, true to the boxes, and the same after encoding but for what H.264 takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.ministvg.render import draw_sprite, paint_actor, render, write_clip
from datamodules.ministvg.scene import FPS, FRAME_SIZE, NUM_FRAMES, Scene, clip_seed, generate_scene
from datamodules.video import probe, read_frames


@pytest.fixture(scope="module")
def scene() -> Scene:
    return generate_scene(clip_seed("tune", 0))


@pytest.fixture(scope="module")
def frames(scene: Scene) -> np.ndarray:
    return render(scene)


def test_frames_are_a_clip(frames: np.ndarray) -> None:
    assert frames.shape == (NUM_FRAMES, *FRAME_SIZE, 3)
    assert frames.dtype == np.uint8


def test_golden_frames() -> None:
    digest = hashlib.sha256()
    for index in range(8):  # they show every action
        digest.update(render(generate_scene(clip_seed("tune", index))).tobytes())
    assert digest.hexdigest()[:16] == "19bbf86506874143", "pixels changed: raise VERSION"


def test_pixels_do_not_depend_on_the_processor(scene: Scene, frames: np.ndarray) -> None:
    # Stands in for another machine: OpenCV without its vector instructions.
    assert cv2.useOptimized()
    cv2.setUseOptimized(False)
    try:
        assert (render(scene) == frames).all()
    finally:
        cv2.setUseOptimized(True)


def test_boxes_are_tight_around_the_drawn_body() -> None:
    checked = 0
    for index in range(12):
        for actor in generate_scene(clip_seed("val", index)).actors:
            sprite = draw_sprite(actor.looks, actor.side)
            for frame in range(0, NUM_FRAMES, 3):
                black, white = (np.full((*FRAME_SIZE, 3), level, dtype=np.uint8) for level in (0, 255))
                for canvas in (black, white):
                    paint_actor(canvas, sprite, actor, frame)
                opacity = 255 - (white.astype(int) - black).min(axis=2)
                y, x = np.nonzero(opacity > 0.2 * 255 * actor.motion.opacities[frame])
                drawn = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
                assert np.abs(drawn - actor.boxes[frame]).max() < 1.2, (index, actor.looks, actor.actions[frame])
                checked += 1
    assert checked > 400


def test_target_stands_out_in_its_box(scene: Scene, frames: np.ndarray) -> None:
    target = scene.actors[scene.event.actor]
    background = np.median(frames, axis=(0, 1, 2))
    x1, y1, x2, y2 = target.boxes[scene.event.start].astype(int)
    inside = frames[scene.event.start, y1:y2, x1:x2].astype(float)
    assert np.abs(inside - background).mean() > 30


def test_clip_decodes_to_its_frames(frames: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_clip(frames, path)
    info = probe(path)
    decoded = read_frames(path, range(info.num_frames))
    assert decoded.shape == frames.shape
    assert info.fps == FPS
    assert path.stat().st_size < 100_000
    errors = np.array([[np.abs(a.astype(int) - b).mean() for b in frames] for a in decoded])
    assert (errors.diagonal() < 6).all()
    assert np.abs(errors.argmin(axis=1) - np.arange(NUM_FRAMES)).max() <= 1  # no frame lost, doubled or out of order


def test_encoding_is_reproducible(frames: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(frames, tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
