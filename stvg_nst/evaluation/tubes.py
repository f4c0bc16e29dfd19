"""Many tubes at once, column by column: what the files say and what the protocols compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SENTENCE_TYPES = ("declarative", "interrogative")
"""As in ``stvg_nst.types``, which loads torch."""

CLEAN = "HQ"
"""The condition of an original clip; every other condition is a low quality."""


@dataclass(frozen=True, slots=True)
class Tubes:
    """N tubes over half-open spans of native frames, F frames in all.

    Args:
        start, stop: (N,) int64, ``0 <= start < stop``.
        boxes: (F, 4) float64, xyxy, native pixels, tube after tube; a row of NaN is a frame without a box, and in a
            true tube one that counts nowhere.
    """

    start: np.ndarray
    stop: np.ndarray
    boxes: np.ndarray

    def __post_init__(self) -> None:
        frames = int((self.stop - self.start).sum())
        assert self.boxes.shape == (frames, 4), f"{frames} frames, boxes {self.boxes.shape}"

    def __len__(self) -> int:
        return len(self.start)

    def boxes_at(self, tubes: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """(M, 4): the box of tube ``tubes[i]`` on its native frame ``frames[i]``; both are (M,) int64."""
        lengths = self.stop - self.start
        first = np.cumsum(lengths) - lengths
        return self.boxes[first[tubes] + frames - self.start[tubes]]

    def take(self, tubes: np.ndarray) -> Tubes:
        """The tubes of these indices, (N',) int64."""
        lengths = (self.stop - self.start)[tubes]
        owner = np.repeat(tubes, lengths)
        frames = np.arange(len(owner)) + np.repeat(self.start[tubes] - (np.cumsum(lengths) - lengths), lengths)
        return Tubes(self.start[tubes], self.stop[tubes], self.boxes_at(owner, frames))


@dataclass(frozen=True, slots=True)
class GroundTruth:
    """The true tubes of a split, and under which conditions each is to be found.

    Args:
        dataset, split: for the reader of a result.
        item_ids: N, unique.
        clips: N, what each item is about; items of one clip are not independent.
        sentence_types: N of ``SENTENCE_TYPES``, ``None`` where nothing is said.
        conditions: of each item, ``HQ``, ``LQ`` or ``kind:severity``; a prediction is expected for each.
        sampled_frames: of each item the native frames that protocol ``tubedetr`` counts, strictly increasing, or
            ``None``.
        tubes: N, each with a box on at least one frame.
    """

    dataset: str
    split: str
    item_ids: tuple[str, ...]
    clips: tuple[str, ...]
    sentence_types: tuple[str | None, ...]
    conditions: tuple[tuple[str, ...], ...]
    sampled_frames: tuple[np.ndarray | None, ...]
    tubes: Tubes


@dataclass(frozen=True, slots=True)
class Predictions:
    """What one method answered.

    Args:
        method: its name.
        item_ids, conditions: N; no pair occurs twice.
        tubes: N.
        verdicts: (N,) float64 in [0, 1], how low the method holds the quality of what it was shown to be; ``None`` of
            a method that does not say.
    """

    method: str
    item_ids: tuple[str, ...]
    conditions: tuple[str, ...]
    tubes: Tubes
    verdicts: np.ndarray | None = None


def stack_tubes(spans: Sequence[tuple[int, int]], boxes: Sequence[np.ndarray]) -> Tubes:
    """Tubes out of N spans ``(start, stop)`` and N arrays (stop - start, 4)."""
    edges = np.array(spans, dtype=np.int64).reshape(-1, 2)
    return Tubes(edges[:, 0], edges[:, 1], np.concatenate([np.empty((0, 4)), *boxes]))
