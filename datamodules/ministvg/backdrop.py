"""Where a MiniSTVG clip plays: five kinds of muted, textured ground, so that the saturated actors stand out.

All arithmetic on pixels is that of OpenCV's 8-bit functions or of whole steps of NumPy: no result depends on a
machine's floating-point library.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
_Field = NDArray[np.float32]

_GROUNDS = (  # RGB: sand, moss, slate, clay, dusk, stone
    (168, 152, 122),
    (116, 132, 104),
    (104, 116, 130),
    (150, 124, 110),
    (118, 108, 128),
    (138, 138, 134),
)


def paint_backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """A backdrop of ``size`` = (H, W), RGB, uint8."""
    colour = np.array(_GROUNDS[int(rng.integers(len(_GROUNDS)))], dtype=np.float32)
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    light = 12 * pattern(rng, size) + 10 * _clouds(rng, size, cells=4) + 6 * _clouds(rng, size, cells=14)
    light += 3 * _clouds(rng, size, cells=60)
    warmth = 4 * _clouds(rng, size, cells=3)
    tint = np.stack([warmth, np.zeros_like(warmth), -warmth], axis=2)
    picture = (colour + light[..., None] + tint) * _spotlight(size)[..., None]
    picture = np.clip(picture, 0, 255).astype(np.uint8)
    return _scatter(rng, picture)


def _clouds(rng: np.random.Generator, size: tuple[int, int], *, cells: int) -> _Field:
    """Smooth noise in [-1, 1] with about ``cells`` lumps along a side."""
    coarse = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    fine = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT)
    blur = max(1, size[0] // cells // 2) | 1
    return cv2.GaussianBlur(fine, (blur, blur), 0).astype(np.float32) / 127.5 - 1


def _spotlight(size: tuple[int, int]) -> _Field:
    """1.06 in the middle and darker towards the corners."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in size)
    return (1.06 - 0.13 * (x[None] ** 2 + y[:, None] ** 2)).astype(np.float32)


def _soft(mask: Image) -> _Field:
    """An 8-bit mask with its steps softened, in [-1, 1]."""
    return cv2.GaussianBlur(mask, (3, 3), 0).astype(np.float32) / 127.5 - 1


def _plain(rng: np.random.Generator, size: tuple[int, int]) -> _Field:
    return np.zeros(size, dtype=np.float32)


def _tiles(rng: np.random.Generator, size: tuple[int, int]) -> _Field:
    side = int(rng.integers(14, 25))
    y, x = np.indices(size) + int(rng.integers(side))
    return 0.7 * _soft((((x // side + y // side) % 2) * 255).astype(np.uint8))


def _planks(rng: np.random.Generator, size: tuple[int, int]) -> _Field:
    width = int(rng.integers(10, 20))
    rows = (np.arange(size[0]) + int(rng.integers(width))) // width
    tones = rng.integers(64, 224, int(rows[-1]) + 1)[rows]
    tones[1:][rows[1:] != rows[:-1]] = 0  # the joints
    return _soft(np.repeat(tones[:, None], size[1], axis=1).astype(np.uint8))


def _dots(rng: np.random.Generator, size: tuple[int, int]) -> _Field:
    step = int(rng.integers(12, 19))
    mask = np.full(size, 110, dtype=np.uint8)
    for row, y in enumerate(range(0, size[0] + step, step)):
        for x in range((row % 2) * step // 2, size[1] + step, step):
            cv2.circle(mask, (x, y), step // 5, 235, thickness=-1)
    return _soft(mask)


def _waves(rng: np.random.Generator, size: tuple[int, int]) -> _Field:
    # Parabolic arcs stand in for a sine.
    period, depth = int(rng.integers(22, 40)), int(rng.integers(3, 7))
    turn = (np.arange(size[1]) % period) * 2 - period
    shift = depth * (turn * turn) // (period * period // 4 + 1)
    stripe = (np.arange(size[0])[:, None] + shift[None]) % 14
    return 0.7 * _soft(np.where(stripe < 7, 70, 190).astype(np.uint8))


_PATTERNS: tuple[Callable[[np.random.Generator, tuple[int, int]], _Field], ...] = (
    _plain,
    _tiles,
    _planks,
    _dots,
    _waves,
)


def _scatter(rng: np.random.Generator, picture: Image) -> Image:
    """Pebbles: small, dull and still, so that not every blob is an actor."""
    litter = picture.copy()
    for _ in range(int(rng.integers(6, 16))):
        x, y = (int(rng.integers(side)) for side in picture.shape[1::-1])
        axes = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        tone = int(rng.integers(-42, 36))
        ink = tuple(int(np.clip(int(c) + tone, 0, 255)) for c in picture[y, x])
        cv2.ellipse(litter, (x, y), axes, 0, 0, 360, ink, thickness=-1, lineType=cv2.LINE_AA)
    return cv2.GaussianBlur(litter, (3, 3), 0).astype(np.uint8, copy=False)
