"""The one bootstrap: it draws clips with replacement, each with all of its sentences and conditions.

Sentences about one clip are not independent. Drawn one by one they would make intervals that are too narrow. Seeds of
training can be drawn the same way beside the clips, for what is to hold for another training too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

LEVEL = 0.95
"""Of the percentile intervals."""

Interval = tuple[float, float]
_REPLICATES_AT_ONCE = 64


def clip_of(item_id: str) -> str:
    """The clip that a sentence is about, as the data sets of this suite name their items.

    >>> clip_of("test-00012/declarative"), clip_of("57_uvLbyKmQfXk")
    ('test-00012', '57_uvLbyKmQfXk')
    """
    return item_id.rpartition("/")[0] or item_id


def shared_clips(videos: Mapping[str, str]) -> dict[str, str]:
    """The clip of each item whose name does not say it: of sentences about one video the first names it for all.

    Args:
        videos: file of each item.

    >>> shared_clips({"night": "a.mp4", "rain": "b.mp4", "second": "a.mp4", "c/1": "c.mp4", "c/2": "c.mp4"})
    {'second': 'night'}
    """
    names: dict[str, str] = {}
    for item_id in sorted(videos):
        names.setdefault(videos[item_id], clip_of(item_id))
    return {item_id: names[video] for item_id, video in videos.items() if names[video] != clip_of(item_id)}


def clip_rows(clips: Sequence[str]) -> tuple[np.ndarray, int]:
    """The number of each one's clip, (N,) int64, and how many clips there are."""
    numbers = {clip: number for number, clip in enumerate(sorted(set(clips)))}
    return np.array([numbers[clip] for clip in clips], dtype=np.int64), len(numbers)


def drawn_counts(num_units: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """(R, U) arrays: how often each replicate has drawn each unit, such as a clip; R adds up to ``replicates``."""
    generator = np.random.default_rng(seed)
    for first in range(0, replicates, _REPLICATES_AT_ONCE):
        rows = min(_REPLICATES_AT_ONCE, replicates - first)
        drawn = generator.integers(num_units, size=(rows, num_units)) + num_units * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * num_units).reshape(rows, num_units).astype(float)


def interval(values: np.ndarray) -> Interval:
    """Percentiles over the replicates in which a number is defined; NaN where it is in none."""
    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(known) else (math.nan, math.nan)
    return float(low), float(high)


def p_value(values: np.ndarray) -> float:
    """Two-sided, of the hypothesis that a difference is 0: what :func:`interval` says, as a number.

    It is twice the share of replicates on the side of 0 that fewer are on, counting the sample itself to them, so that
    B replicates never claim less than 2 / (B + 1). NaN where the difference is defined in no replicate.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return math.nan
    fewer = min(np.sum(known <= 0), np.sum(known >= 0))
    return min(1.0, 2 * (1 + int(fewer)) / (1 + len(known)))
