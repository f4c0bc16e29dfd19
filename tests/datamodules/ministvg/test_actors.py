"""Poses and boxes: what an action does to a body."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from datamodules.ministvg.actors import ACTIONS, SHAPES, SIDES, Action, Motion, Segment, body_boxes, outline, perform

MOVING = tuple(action for action in ACTIONS if action != "idle")


def act(action: Action, num_frames: int, seed: int = 0, side: float = 20.0) -> Motion:
    return perform(np.random.default_rng(seed), [Segment(action, 0, num_frames)], side)


def distance_from_rest(motion: Motion) -> np.ndarray:
    """(F,): how far each pose is from standing still, in pixels of a body of 20 pixels."""
    turned = 2 * np.abs(np.sin(motion.angles / 2)) * 10
    stretched = np.abs(motion.stretches - 1).max(axis=1) * 10
    return np.linalg.norm(motion.offsets, axis=1) + turned + stretched + 20 * (1 - motion.opacities)


@pytest.mark.parametrize("action", MOVING)
def test_first_and_last_frame_of_an_action_differ_from_rest(action: Action) -> None:
    for seed, num_frames in enumerate(range(6, 23)):
        distance = distance_from_rest(act(action, num_frames, seed))
        assert distance[0] > 0.7, (action, num_frames, distance[0])
        assert distance[-1] > 0.7, (action, num_frames, distance[-1])


def test_idle_is_still() -> None:
    assert not distance_from_rest(act("idle", 20)).any()


@pytest.mark.parametrize(("action", "sign"), [("slide_left", -1), ("slide_right", 1)])
def test_slide_goes_its_way_and_the_actor_stays_there(action: Action, sign: int) -> None:
    segments = [Segment("idle", 0, 4), Segment(action, 4, 14), Segment("idle", 14, 20)]
    x = perform(np.random.default_rng(0), segments, 20.0).offsets[:, 0] * sign
    assert (x[:4] == 0).all()
    assert (np.diff(x)[3:13] >= 1.9).all()
    assert (x[14:] == x[13]).all()


@pytest.mark.parametrize("action", ["jump", "spin", "sway", "pulse", "shake", "fade"])
def test_other_actions_end_where_they_began(action: Action) -> None:
    motion = perform(np.random.default_rng(1), [Segment(action, 0, 12), Segment("idle", 12, 16)], 20.0)
    assert not motion.offsets[12:].any()
    assert not motion.angles[12:].any()


def test_shake_is_seen_by_a_network_that_samples_every_second_or_third_frame() -> None:
    for seed in range(20):
        offsets = act("shake", 22, seed).offsets
        for stride in (1, 2, 3):
            assert np.linalg.norm(np.diff(offsets[::stride], axis=0), axis=1).mean() > 1.8


def test_small_and_large_stay_apart_while_they_pulse() -> None:
    swells = [act("pulse", num_frames, seed).stretches for seed, num_frames in enumerate(range(6, 23))]
    swollen = SIDES["small"][1] * np.mean([s.max() for s in swells])
    shrunk = SIDES["large"][0] * np.mean([s.min() for s in swells])
    assert SIDES["small"][1] < shrunk < swollen < SIDES["large"][0]


@pytest.mark.parametrize("shape", SHAPES)
def test_outline_is_centred_and_one_long(shape: str) -> None:
    points = outline(shape)
    assert np.allclose(points.min(axis=0) + points.max(axis=0), 0)
    assert np.ptp(points, axis=0).max() == pytest.approx(1)


def test_box_of_a_square_by_hand() -> None:
    boxes = body_boxes("square", 20.0, act("idle", 1))
    assert boxes == pytest.approx(np.array([[-10, -10, 10, 10]]))


def test_box_of_a_circle_does_not_depend_on_its_rotation() -> None:
    still, turning = body_boxes("circle", 30.0, act("idle", 12)), body_boxes("circle", 30.0, act("spin", 12))
    assert np.abs(still - turning).max() < 0.1


def test_poses_are_rounded_so_that_machines_agree() -> None:
    for action in ACTIONS:
        motion = act(action, 13, seed=3)
        for field in fields(Motion):
            values = getattr(motion, field.name) * 1024
            assert (values == np.round(values)).all(), (action, field.name)
