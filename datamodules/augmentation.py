"""What CG-STVG's training does to a clip by chance: a cut in time, and a mirror."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from datamodules.records import Record
from datamodules.sampling import FrameChoice
from datamodules.shown import ShownClip
from datamodules.transforms import PixelResize, Resize
from stvg_nst.types import Tube

_OTHER_SIDE = {"left": "right", "right": "left"}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Chances of a training clip, drawn once a clip and epoch.

    Args:
        flip: probability of a mirrored clip.
        crop: probability of a cut in time, which keeps all shown frames of the target.
        crop_of: what is cut: the list of the ``samples``, as published for HC-STVG, so that a clip gets shorter; or the
            ``segment`` before frames are sampled of it, as published for VidSTG.
        swap_sides: in a mirrored clip, let "left" and "right" change places in the sentence. The published code leaves
            the sentence as it is, by mistake.

    Raises:
        ValueError: a probability does not lie in [0, 1].

    Source: CG-STVG (Gu et al., CVPR 2024).
    """

    flip: float = 0.7
    crop: float = 0.5
    crop_of: Literal["samples", "segment"] = "samples"
    swap_sides: bool = True

    def __post_init__(self) -> None:
        for name, value in (("flip", self.flip), ("crop", self.crop)):
            if not 0 <= value <= 1:
                raise ValueError(f"the probability '{name}' must lie in [0, 1], got {value}")

    @property
    def resamples(self) -> bool:
        """Whether a cut shows other frames than some of those that the whole clip shows."""
        return self.crop > 0 and self.crop_of == "segment"

    def show(self, record: Record, choose: FrameChoice, resize: Resize | PixelResize | None, chance: int) -> ShownClip:
        """As :class:`datamodules.shown.ClipAugmentation` says."""
        random = Random(chance)
        frame_ids = self.choose(record, choose, random)
        mirrored = self.is_flipped(random)
        return ShownClip(self.mirrored(record) if mirrored else record, frame_ids, resize, mirrored)

    def largest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def choose(self, record: Record, frames: FrameChoice, random: Random) -> tuple[int, ...]:
        """The frames to show; draws first whether to cut, then where."""
        drawn = random.random()
        # The published code draws the other way round on its two data sets.
        if self.crop_of == "samples":
            ids = frames(record)
            return crop_in_time(ids, record.target.start, record.target.stop, random) if drawn >= 1 - self.crop else ids
        if drawn >= self.crop:
            return frames(record)
        kept = crop_in_time(range(*record.segment), record.target.start, record.target.stop, random)
        return frames(replace(record, segment=(kept[0], kept[-1] + 1)))

    def is_flipped(self, random: Random) -> bool:
        """To be drawn after :meth:`choose`."""
        return random.random() < self.flip

    def mirrored(self, record: Record) -> Record:
        """The sentence and its answer in a mirrored clip."""
        width = record.size[1]
        boxes = record.target.boxes.clone()
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        query = swap_sides(record.query) if self.swap_sides else record.query
        return replace(record, query=query, target=Tube(record.target.start, record.target.stop, boxes))


def crop_in_time(frame_ids: Sequence[int], start: int, stop: int, random: Random) -> tuple[int, ...]:
    """Some run of the frames that holds all those in [start, stop); all frames where none of them is in it."""
    inside = [index for index, frame in enumerate(frame_ids) if start <= frame < stop]
    if not inside:
        return tuple(frame_ids)
    first, last = 0, len(frame_ids) - 1
    if inside[0] > 0:
        first = random.choice(range(inside[0]))
    if inside[-1] < last:
        last = random.choice(range(inside[-1] + 1, len(frame_ids)))
    return tuple(frame_ids[first : last + 1])


def swap_sides(query: str) -> str:
    """Lets "left" and "right" change places, in lower case."""
    return re.sub(r"\b(left|right)\b", lambda match: _OTHER_SIDE[match[0].lower()], query, flags=re.IGNORECASE)
