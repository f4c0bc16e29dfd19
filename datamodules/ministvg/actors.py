"""The cast of MiniSTVG: what an actor looks like, how it acts, and the tight box it fills on every frame.

Coordinates are continuous pixels: pixel ``i`` covers ``[i, i + 1)``, x runs right and y runs down.
F is the number of frames of a clip, P the number of points of an outline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Shape = Literal["circle", "square", "triangle", "star", "heart"]
Colour = Literal["red", "yellow", "green", "blue", "purple", "white"]
Size = Literal["small", "large"]
Action = Literal["idle", "slide_left", "slide_right", "jump", "spin", "sway", "pulse", "shake", "fade"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
ACTIONS: tuple[Action, ...] = get_args(Action)

# Longer side at rest, pixels. The ranges stay apart even where a small actor swells and a large one shrinks (pulse).
SIDES: dict[Size, tuple[float, float]] = {"small": (18.0, 22.0), "large": (30.0, 36.0)}

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Looks:
    """What one still frame shows of an actor."""

    shape: Shape
    colour: Colour
    size: Size


@dataclass(frozen=True, slots=True)
class Segment:
    """One action over the half-open span of frames ``[start, stop)``."""

    action: Action
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Motion:
    """The pose of an actor on each frame, relative to the place where it stands.

    Args:
        offsets: (F, 2), of its centre, pixels.
        angles: (F,), clockwise on the screen, radians.
        stretches: (F, 2), along its own x and y axes, 1 at rest.
        opacities: (F,), in (0, 1].
        heights: (F,), of its feet above the ground, pixels; they move the shadow, not the actor.
    """

    offsets: Array
    angles: Array
    stretches: Array
    opacities: Array
    heights: Array


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor of a clip: looks, schedule and geometry.

    Args:
        looks: what it looks like.
        side: its longer side at rest, pixels.
        segments: its schedule; the segments cover all F frames in order.
        motion: its poses.
        centres: (F, 2), its centre on the screen, camera included, pixels.
        ground: (F,), y of the ground below it on the screen, pixels; also its depth, larger is nearer.
        boxes: (F, 4), xyxy, tight around the drawn body, shadow excluded.
        visibility: (F,), opacity times the share of the box that no nearer box covers; where two nearer boxes overlap
            each other, their common part counts twice, so this is a lower bound.
    """

    looks: Looks
    side: float
    segments: tuple[Segment, ...]
    motion: Motion
    centres: Array
    ground: Array
    boxes: Array
    visibility: Array

    @property
    def actions(self) -> tuple[Action, ...]:
        """The action on each of the F frames."""
        return tuple(segment.action for segment in self.segments for _ in range(len(segment)))


@cache
def outline(shape: Shape) -> Array:
    """The closed contour of a shape, (P, 2), centred on the origin, its longer side 1; the drawn stroke lies inside."""
    points = _OUTLINES[shape]()
    low, high = points.min(axis=0), points.max(axis=0)
    points = (points - (low + high) / 2) / (high - low).max()
    points.setflags(write=False)
    return points


def body_boxes(shape: Shape, side: float, motion: Motion) -> Array:
    """Boxes (F, 4), xyxy, of a body whose place is the origin."""
    points = outline(shape)[None] * (side * motion.stretches)[:, None]  # (F, P, 2)
    cos, sin = np.cos(motion.angles)[:, None], np.sin(motion.angles)[:, None]
    x = cos * points[..., 0] - sin * points[..., 1] + motion.offsets[:, :1]
    y = sin * points[..., 0] + cos * points[..., 1] + motion.offsets[:, 1:]
    return np.stack([x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)], axis=1)


def perform(rng: np.random.Generator, segments: Sequence[Segment], side: float) -> Motion:
    """The motion of a schedule. A slide leaves the actor where it ends; every other action ends where it began."""
    parts, here = [], np.zeros(2)
    for segment in segments:
        part = _PERFORM[segment.action](rng, len(segment), side)
        part = replace(part, offsets=part.offsets + here)
        if segment.action in ("slide_left", "slide_right"):
            here = part.offsets[-1]
        parts.append(part)
    # Rounding hides the last bit of sin and cos, which differs between machines: the same seed gives the same pixels.
    joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Motion))
    return Motion(*(np.round(values * 1024.0) / 1024.0 for values in joined))


def _rest(num_frames: int) -> Motion:
    return Motion(
        offsets=np.zeros((num_frames, 2)),
        angles=np.zeros(num_frames),
        stretches=np.ones((num_frames, 2)),
        opacities=np.ones(num_frames),
        heights=np.zeros(num_frames),
    )


def _phase(num_frames: int, period: float) -> Array:
    """Cycles done on each frame: a whole number over the segment, so that it ends at rest, and about ``period`` each.

    Frames sit half a step inside the segment: the first and the last one already differ from rest, and the edges of
    the event can be seen.
    """
    cycles = max(1, round(num_frames / period))
    return (np.arange(num_frames, dtype=np.float64) + 0.5) * (cycles / num_frames)


def _idle(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    return _rest(num_frames)


def _slide(rng: np.random.Generator, num_frames: int, side: float, *, direction: int) -> Motion:
    distance = min(rng.uniform(2.0, 3.0) * num_frames, 48.0)
    steps = np.arange(1, num_frames + 1) / num_frames
    rest = _rest(num_frames)
    lean = np.full(num_frames, -0.12 * direction)
    return replace(rest, offsets=np.stack([direction * distance * steps, np.zeros(num_frames)], axis=1), angles=lean)


def _slide_left(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    return _slide(rng, num_frames, side, direction=-1)


def _slide_right(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    return _slide(rng, num_frames, side, direction=1)


def _jump(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    arc = np.abs(np.sin(np.pi * _phase(num_frames, period=7.0)))
    heights = rng.uniform(11.0, 16.0) * arc
    stretches = np.stack([1.12 - 0.18 * arc, 0.86 + 0.22 * arc], axis=1)  # squashed on the ground, drawn out in the air
    feet = side / 2 * (1 - stretches[:, 1])  # squashing keeps the feet, not the centre, in place
    offsets = np.stack([np.zeros(num_frames), feet - heights], axis=1)
    return replace(_rest(num_frames), offsets=offsets, stretches=stretches, heights=heights)


def _spin(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    direction = rng.choice([-1.0, 1.0])
    return replace(_rest(num_frames), angles=direction * 2 * np.pi * _phase(num_frames, period=10.0))


def _sway(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    swing = rng.choice([-1.0, 1.0]) * np.sin(2 * np.pi * _phase(num_frames, period=9.0))
    offsets = np.stack([rng.uniform(4.5, 6.0) * swing, np.zeros(num_frames)], axis=1)
    return replace(_rest(num_frames), offsets=offsets, angles=rng.uniform(0.35, 0.45) * swing)


def _pulse(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    swell = rng.uniform(1.24, 1.28) ** np.sin(2 * np.pi * _phase(num_frames, period=6.0))
    return replace(_rest(num_frames), stretches=np.stack([swell, swell], axis=1))


def _shake(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    # Turning by about the golden angle, 2.4 radians, keeps the jolts apart on neighbouring frames and also in a network
    # that samples every second or third frame, to which a periodic shake would look still.
    turns = rng.choice([-1.0, 1.0]) * rng.uniform(2.1, 2.7, num_frames)
    directions = rng.uniform(0, 2 * np.pi) + np.cumsum(turns)
    jolts = rng.uniform(2.2, 3.4, num_frames)
    offsets = np.stack([jolts * np.cos(directions), jolts * np.sin(directions)], axis=1)
    return replace(_rest(num_frames), offsets=offsets, angles=rng.uniform(-0.12, 0.12, num_frames))


def _fade(rng: np.random.Generator, num_frames: int, side: float) -> Motion:
    depth = rng.uniform(0.8, 0.88)
    return replace(_rest(num_frames), opacities=1 - depth * np.abs(np.sin(np.pi * _phase(num_frames, period=8.0))))


_PERFORM: dict[Action, Callable[[np.random.Generator, int, float], Motion]] = {
    "idle": _idle,
    "slide_left": _slide_left,
    "slide_right": _slide_right,
    "jump": _jump,
    "spin": _spin,
    "sway": _sway,
    "pulse": _pulse,
    "shake": _shake,
    "fade": _fade,
}


def _ring(num_points: int, phase: float = -np.pi / 2) -> Array:
    turns = phase + 2 * np.pi * np.arange(num_points) / num_points
    return np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _round_corners(corners: Array, share: float) -> Array:
    """Replace each corner by a quadratic curve that begins ``share`` of the way along both of its edges."""
    t = np.linspace(0, 1, 7)[None, :, None]
    before = corners + share * (np.roll(corners, 1, axis=0) - corners)
    after = corners + share * (np.roll(corners, -1, axis=0) - corners)
    curve = (1 - t) ** 2 * before[:, None] + 2 * t * (1 - t) * corners[:, None] + t**2 * after[:, None]
    return curve.reshape(-1, 2)


def _heart() -> Array:
    t = 2 * np.pi * np.arange(64) / 64
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3, -y], axis=1)


def _star() -> Array:
    points = _ring(10)
    points[1::2] *= 0.52
    return _round_corners(points, 0.24)


_OUTLINES: dict[Shape, Callable[[], Array]] = {
    "circle": lambda: _ring(64),
    "square": lambda: _round_corners(_ring(4, phase=np.pi / 4), 0.2),
    "triangle": lambda: _round_corners(_ring(3), 0.2),
    "star": _star,
    "heart": _heart,
}
