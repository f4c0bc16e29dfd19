"""Scenes: one right answer, which needs the whole question; boxes in the frame; the same seed, the same scene."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from datamodules.ministvg.actors import ACTIONS
from datamodules.ministvg.scene import (
    FRAME_SIZE,
    NUM_FRAMES,
    SPLITS,
    Scene,
    assert_unambiguous,
    clip_seed,
    generate_scene,
)
from datamodules.ministvg.sentences import ATTRIBUTES, events_of, understand


@pytest.fixture(scope="module")
def scenes() -> tuple[Scene, ...]:
    return tuple(generate_scene(clip_seed("tune", index)) for index in range(300))


def digest(scene: Scene) -> str:
    parts = [scene.declarative, scene.interrogative, repr(scene.event)]
    parts += [repr(actor.looks) + repr(actor.segments) + repr(actor.boxes.round(2).tolist()) for actor in scene.actors]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def test_both_sentences_describe_the_event_alone(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        for sentence in (scene.declarative, scene.interrogative):
            assert events_of(understand(sentence), scene.actors) == (scene.event,), sentence


def test_each_foil_makes_one_named_attribute_necessary(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        question = understand(scene.interrogative)
        foils = [foil for foil in scene.foils if foil is not None]
        assert scene.foils[scene.event.actor] is None
        assert len(set(foils)) == len(foils) == len(scene.actors) - 1
        for foil in foils:
            assert foil != scene.asked
            found = events_of(question.without(foil), scene.actors)
            assert len({event.actor for event in found}) > 1, (scene.interrogative, foil)


def test_all_kinds_occur(scenes: tuple[Scene, ...]) -> None:
    assert {len(scene.actors) for scene in scenes} == {3, 4}
    assert {scene.asked for scene in scenes} == set(ATTRIBUTES)
    assert {scene.event.actor for scene in scenes} == {0, 1, 2, 3}
    assert len({understand(scene.declarative).action for scene in scenes}) == 8


def test_event_is_a_part_of_the_clip(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        event, actions = scene.event, scene.actors[scene.event.actor].actions
        action = actions[event.start]
        assert 8 <= event.stop - event.start <= 22
        assert [index for index in range(NUM_FRAMES) if actions[index] == action] == list(
            range(event.start, event.stop)
        )


def test_schedules_cover_the_clip_without_repetition(scenes: tuple[Scene, ...]) -> None:
    for actor in (actor for scene in scenes for actor in scene.actors):
        assert actor.segments[0].start == 0
        assert actor.segments[-1].stop == NUM_FRAMES
        assert all(a.stop == b.start for a, b in zip(actor.segments, actor.segments[1:], strict=False))
        moving = [segment.action for segment in actor.segments if segment.action != "idle"]
        assert len(set(moving)) == len(moving) >= 1


def test_boxes_lie_in_the_frame(scenes: tuple[Scene, ...]) -> None:
    height, width = FRAME_SIZE
    for actor in (actor for scene in scenes for actor in scene.actors):
        assert actor.boxes.shape == (NUM_FRAMES, 4)
        assert (actor.boxes[:, :2] >= 1).all()
        assert (actor.boxes[:, 2:] <= (width - 1, height - 1)).all()
        assert (actor.boxes[:, 2:] - actor.boxes[:, :2] > 8).all()


def test_boxes_follow_the_camera(scenes: tuple[Scene, ...]) -> None:
    followed = 0
    for scene in scenes:
        assert 0.2 < np.abs(scene.camera).max() < 2
        for actor in scene.actors:
            idle = np.array([action == "idle" for action in actor.actions])
            steady = idle[1:] & idle[:-1]
            moved = np.diff(actor.boxes[:, :2], axis=0)[steady]
            assert moved == pytest.approx(np.diff(scene.camera, axis=0)[steady], abs=1e-9)
            followed += int(steady.sum())
    assert followed > 1000


def test_target_stays_mostly_visible(scenes: tuple[Scene, ...]) -> None:
    for scene in scenes:
        target = scene.actors[scene.event.actor]
        assert (target.visibility / target.motion.opacities > 0.55).all()


def test_checker_refuses_a_second_answer(scenes: tuple[Scene, ...]) -> None:
    scene = scenes[0]
    twin = scene.actors[scene.event.actor]
    with pytest.raises(AssertionError, match="must describe Event"):
        assert_unambiguous(replace(scene, actors=(*scene.actors, twin)))


def test_checker_refuses_a_question_with_its_answer(scenes: tuple[Scene, ...]) -> None:
    scene = scenes[0]
    with pytest.raises(AssertionError, match="tells its answer"):
        assert_unambiguous(replace(scene, interrogative=scene.declarative))


def test_same_seed_same_scene(scenes: tuple[Scene, ...]) -> None:
    assert digest(generate_scene(clip_seed("tune", 5))) == digest(scenes[5])
    assert len({digest(scene) for scene in scenes}) == len(scenes)


def test_golden_scene(scenes: tuple[Scene, ...]) -> None:
    shown = {action for scene in scenes[:8] for actor in scene.actors for action in actor.actions}
    assert shown == set(ACTIONS)
    digests = "".join(digest(scene) for scene in scenes[:8])
    assert hashlib.sha256(digests.encode()).hexdigest()[:16] == "5400d6ac75c14d7a", "scenes changed: raise VERSION"


def test_splits_share_no_seed() -> None:
    seeds = {clip_seed(split, index) for split in SPLITS for index in range(1000)}
    assert len(seeds) == 1000 * len(SPLITS)


@pytest.mark.parametrize(("split", "index"), [("train", 0), ("tune", -1)])
def test_unknown_clip_is_refused(split: str, index: int) -> None:
    with pytest.raises(ValueError, match=f"got '{split}' and {index}"):
        clip_seed(split, index)
