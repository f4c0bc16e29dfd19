"""Annotations: what is written is what is read, and impossible ones are refused."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.ministvg.actors import ACTIONS
from datamodules.ministvg.annotations import SceneAnnotation, annotate, read_annotations, write_annotations
from datamodules.ministvg.scene import clip_seed, generate_scene


def annotation(folder: Path, index: int) -> SceneAnnotation:
    return annotate(generate_scene(clip_seed("test", index)), f"test-{index:05d}", folder / "clips" / f"{index}.mp4")


def test_round_trip(tmp_path: Path) -> None:
    written = [annotation(tmp_path, index) for index in range(8)]
    write_annotations(tmp_path / "annotations.json", written)
    read = read_annotations(tmp_path / "annotations.json")
    assert len(read) == 8
    for a, b in zip(written, read, strict=True):
        for field in fields(SceneAnnotation):
            if field.name != "actors":
                assert getattr(a, field.name) == getattr(b, field.name), field.name
        for actor, again in zip(a.actors, b.actors, strict=True):
            assert (actor.shape, actor.colour, actor.size) == (again.shape, again.colour, again.size)
            for name in ("boxes", "actions", "visibility"):
                assert getattr(actor, name).dtype == getattr(again, name).dtype
                assert np.array_equal(getattr(actor, name), getattr(again, name)), name


def test_target_tube_is_the_event(tmp_path: Path) -> None:
    for index in range(8):
        scene = generate_scene(clip_seed("test", index))
        tube = annotation(tmp_path, index).target_tube()
        assert (tube.start, tube.stop) == (scene.event.start, scene.event.stop)
        expected = scene.actors[scene.event.actor].boxes[tube.start : tube.stop]
        assert np.abs(tube.boxes.numpy() - expected).max() <= 0.0051


def test_actions_are_indices_of_the_vocabulary(tmp_path: Path) -> None:
    scene = generate_scene(clip_seed("test", 0))
    for actor, annotated in zip(scene.actors, annotation(tmp_path, 0).actors, strict=True):
        assert tuple(ACTIONS[action] for action in annotated.actions) == actor.actions


def test_impossible_annotations_are_refused(tmp_path: Path) -> None:
    good = annotation(tmp_path, 0)
    with pytest.raises(ValueError, match=r"target is actor 9 over"):
        replace(good, target=9)
    with pytest.raises(ValueError, match=r"32 frames, but its target is actor \d over \[30, 33\)"):
        replace(good, start=30, stop=33)
    with pytest.raises(ValueError, match=r"needs 40 boxes, got \[32"):
        replace(good, num_frames=40)
    with pytest.raises(ValueError, match=r"got \(\(32, 4\), \(31,\), \(32,\)\)"):
        replace(good.actors[0], actions=good.actors[0].actions[1:])
