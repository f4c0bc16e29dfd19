"""What happens in a MiniSTVG clip: a seeded generator of scenes, in NumPy alone.

One actor, the target, performs the described action during a part of the clip. Each distractor is a foil for one
attribute that the question names: it agrees with the target on the others, so that leaving that attribute out of the
question would leave two answers. The asked attribute, which the question does not name, separates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from datamodules.ministvg.actors import (
    ACTIONS,
    COLOURS,
    SHAPES,
    SIDES,
    SIZES,
    Action,
    Actor,
    Array,
    Looks,
    Segment,
    body_boxes,
    outline,
    perform,
)
from datamodules.ministvg.sentences import (
    ATTRIBUTES,
    Attribute,
    Event,
    Meaning,
    ask,
    declare,
    events_of,
    pick,
    understand,
)
from stvg_nst.seeding import derive_seed

VERSION = "1"
"""Of everything that decides the bytes of a scene or of its frames; part of every seed and of the folder's name."""

SPLITS = ("pretrain", "tune", "val", "test", "confirm")
NUM_FRAMES = 32
FPS = 8
FRAME_SIZE = (128, 128)
"""(H, W), pixels."""

_EVENT_FRAMES = (8, 22)  # shortest and longest event
_ASIDE_FRAMES = (6, 14)  # shortest and longest other action before or after it
_ASIDE_SHARE = 0.4  # of the stretches around an event that are long enough for another action
_ASKED_SHARED = 0.5  # of the distractors that also share the asked attribute with the target
_MARGIN = 1.0  # pixels between any box and the border of the frame
_MAX_OVERLAP = 0.3  # of the smaller of two boxes, on any frame
_MAX_TARGET_OVERLAP = 0.15  # the same, where one of the two is the target's
_PLACE_TRIES = 60

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip before its pixels: who acts, when, and the two sentences that point at the target.

    Args:
        seed: what it was generated from; it also seeds the backdrop.
        actors: three or four of them, in no particular order.
        event: the target, by its index in ``actors``, and the span of the described action.
        declarative: names all four attributes.
        interrogative: asks for the ``asked`` attribute and names the other three.
        asked: the attribute that the question leaves open.
        foils: for each actor the attribute that sets it apart from the target, ``None`` for the target.
        camera: (F, 2), shift of the whole picture on each frame, pixels; already part of all boxes.
    """

    seed: int
    actors: tuple[Actor, ...]
    event: Event
    declarative: str
    interrogative: str
    asked: Attribute
    foils: tuple[Attribute | None, ...]
    camera: Array


@dataclass(frozen=True, slots=True)
class _Role:
    looks: Looks
    segments: tuple[Segment, ...]
    foil: Attribute | None


def clip_seed(split: str, index: int) -> int:
    """The seed of clip ``index`` of a split: it depends on nothing else, so a split can grow without changing.

    Raises:
        ValueError: an unknown split or a negative index.
    """
    if split not in SPLITS or index < 0:
        raise ValueError(f"expected a split of {SPLITS} and an index >= 0, got '{split}' and {index}")
    return derive_seed("ministvg", VERSION, split, index)


def generate_scene(seed: int) -> Scene:
    """The scene of a seed: the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(seed))
    asked = pick(rng, ATTRIBUTES)
    camera = _camera(rng)
    while True:
        roles, meaning, segment = _cast(rng, asked)
        actors = _place(rng, roles, camera)
        if actors is not None:
            break
    order = [int(i) for i in rng.permutation(len(actors))]
    scene = Scene(
        seed=seed,
        actors=tuple(actors[i] for i in order),
        event=Event(order.index(0), segment.start, segment.stop),
        declarative=declare(rng, meaning),
        interrogative=ask(rng, meaning, asked),
        asked=asked,
        foils=tuple(roles[i].foil for i in order),
        camera=camera,
    )
    assert_unambiguous(scene)
    return scene


def assert_unambiguous(scene: Scene) -> None:
    """Read both sentences back and check that each of them points at the scene's event and at nothing else.

    Raises:
        AssertionError: naming the sentence and the events that it describes, or the question that names its answer.
    """
    question = understand(scene.interrogative)
    assert question == understand(scene.declarative).without(scene.asked), f"'{scene.interrogative}' tells its answer"
    for sentence in (scene.declarative, scene.interrogative):
        found = events_of(understand(sentence), scene.actors)
        assert found == (scene.event,), f"'{sentence}' must describe {scene.event} alone, but it describes {found}"


def _cast(rng: np.random.Generator, asked: Attribute) -> tuple[list[_Role], Meaning, Segment]:
    """The roles, the target's first; what the sentences say of it; and the segment they speak of."""
    looks = Looks(pick(rng, SHAPES), pick(rng, COLOURS), pick(rng, SIZES))
    action = pick(rng, _others(ACTIONS, "idle"))
    event = _event_segment(rng, action)
    # Who asks what the target does must see it do one thing only.
    roles = [
        _Role(looks, _schedule(rng, event, asides=() if asked == "action" else _others(ACTIONS, "idle", action)), None)
    ]
    named = [attribute for attribute in ATTRIBUTES if attribute != asked]
    num_foils = int(rng.integers(2, len(named) + 1))
    for foil in rng.permutation(len(named))[:num_foils]:
        roles.append(_foil(rng, looks, action, foil=named[foil], asked=asked))
    return roles, Meaning(looks.shape, looks.colour, looks.size, action), event


def _foil(rng: np.random.Generator, looks: Looks, action: Action, *, foil: Attribute, asked: Attribute) -> _Role:
    """A distractor that differs from the target in ``foil``, and half of the time in what is asked for as well."""
    shape, colour, size, own_action = looks.shape, looks.colour, looks.size, action
    changed = {foil} if rng.random() < _ASKED_SHARED else {foil, asked}
    if "shape" in changed:
        shape = pick(rng, _others(SHAPES, shape))
    if "colour" in changed:
        colour = pick(rng, _others(COLOURS, colour))
    if "size" in changed:
        size = pick(rng, _others(SIZES, size))
    if "action" in changed:
        own_action = pick(rng, _others(ACTIONS, "idle", action))
    # An aside must not repeat the target's action: the foil for the action would then be a second answer.
    asides = _others(ACTIONS, "idle", action, own_action)
    segments = _schedule(rng, _event_segment(rng, own_action), asides)
    return _Role(Looks(shape, colour, size), segments, foil)


def _others(values: Sequence[_Value], *excluded: _Value) -> tuple[_Value, ...]:
    return tuple(value for value in values if value not in excluded)


def _event_segment(rng: np.random.Generator, action: Action) -> Segment:
    length = int(rng.integers(_EVENT_FRAMES[0], _EVENT_FRAMES[1] + 1))
    start = int(rng.integers(0, NUM_FRAMES - length + 1))
    return Segment(action, start, start + length)


def _schedule(rng: np.random.Generator, main: Segment, asides: Sequence[Action]) -> tuple[Segment, ...]:
    """Segments that cover the clip: ``main``, now and then another action before and after it, and idleness between."""
    acts = [main]
    for start, stop in ((0, main.start), (main.stop, NUM_FRAMES)):
        if asides and stop - start >= _ASIDE_FRAMES[0] and rng.random() < _ASIDE_SHARE:
            length = int(rng.integers(_ASIDE_FRAMES[0], min(stop - start, _ASIDE_FRAMES[1]) + 1))
            first = int(rng.integers(start, stop - length + 1))
            aside = pick(rng, asides)
            asides = _others(asides, aside)
            acts.append(Segment(aside, first, first + length))
    segments, now = [], 0
    for act in sorted(acts, key=lambda segment: segment.start):
        if act.start > now:
            segments.append(Segment("idle", now, act.start))
        segments.append(act)
        now = act.stop
    if now < NUM_FRAMES:
        segments.append(Segment("idle", now, NUM_FRAMES))
    return tuple(segments)


def _camera(rng: np.random.Generator) -> Array:
    """(F, 2): a hand that is not quite still, two slow waves on each axis."""
    frames = np.arange(NUM_FRAMES)[:, None, None]
    periods = rng.uniform(9.0, 30.0, (2, 2))
    starts = rng.uniform(0.0, 2 * np.pi, (2, 2))
    waves = np.sin(2 * np.pi * frames / periods + starts) * rng.uniform(0.3, 0.8, (2, 2))
    return np.round(waves.sum(axis=2) * 64.0) / 64.0


def _place(rng: np.random.Generator, roles: Sequence[_Role], camera: Array) -> tuple[Actor, ...] | None:
    """Put the roles on the stage, the target first; ``None`` where one of them finds no free place."""
    actors: list[Actor] = []
    for role in roles:
        side = rng.uniform(*SIDES[role.looks.size])
        motion = perform(rng, role.segments, side)
        boxes = body_boxes(role.looks.shape, side, motion) + np.tile(camera, 2)
        reach = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
        low, high = _MARGIN - reach[:2], np.array(FRAME_SIZE[::-1]) - _MARGIN - reach[2:]
        if (low > high).any():
            return None
        for _ in range(_PLACE_TRIES):
            place = np.round(rng.uniform(low, high) * 64.0) / 64.0
            here = boxes + np.tile(place, 2)
            limits = (_MAX_TARGET_OVERLAP if i == 0 else _MAX_OVERLAP for i in range(len(actors)))
            if all(_overlap(here, other.boxes).max() <= limit for other, limit in zip(actors, limits, strict=True)):
                break
        else:
            return None
        centres = place + motion.offsets + camera
        # Feet: half a body below the centre, whatever the pose does around it.
        ground = place[1] + side * np.ptp(outline(role.looks.shape)[:, 1]) / 2 + camera[:, 1]
        actors.append(Actor(role.looks, side, role.segments, motion, centres, ground, here, np.ones(NUM_FRAMES)))
    return tuple(replace(actor, visibility=_visibility(actor, actors)) for actor in actors)


def _overlap(a: Array, b: Array) -> Array:
    """(F,): the intersection of boxes (F, 4) and (F, 4), as a share of the smaller of the two."""
    return _intersection(a, b) / np.minimum(_intersection(a, a), _intersection(b, b))


def _intersection(a: Array, b: Array) -> Array:
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    return sides.clip(min=0).prod(axis=1)


def _visibility(actor: Actor, cast: Sequence[Actor]) -> Array:
    nearer = [other for other in cast if other.ground[0] > actor.ground[0]]
    covered = sum((_intersection(actor.boxes, other.boxes) for other in nearer), np.zeros(NUM_FRAMES))
    return actor.motion.opacities * (1 - covered / _intersection(actor.boxes, actor.boxes)).clip(min=0)
