"""What TubeDETR's training does to a clip by chance: another size, a part of the picture, a cut in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import torch
from torch import Tensor

from datamodules.augmentation import crop_in_time
from datamodules.records import Record
from datamodules.sampling import FrameChoice
from datamodules.shown import ShownClip
from datamodules.transforms import PixelResize, Resize, ShortSide, scale, scaled_size
from stvg_nst.types import Tube

# A crop that leaves a box without area is not taken, and the original then draws this often in vain: it tries the
# next crops on the boxes that the first one has emptied.
_LOST_DRAWS = 99


@dataclass(frozen=True, slots=True)
class ScaledPart:
    """Scales frames, cuts one part out of all of them, and scales that.

    Args:
        scaled: (H, W) before the cut.
        corner: (top, left) of the part there.
        part: (H, W) of the part there.
        final: (H, W) that it is brought to.
    """

    scaled: tuple[int, int]
    corner: tuple[int, int]
    part: tuple[int, int]
    final: tuple[int, int]

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) that frames of any size are brought to."""
        return self.final

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """uint8 (T, H, W, 3) -> (T, H', W', 3)."""
        (top, left), (height, width) = self.corner, self.part
        return scale(scale(frames, self.scaled)[:, top : top + height, left : left + width], self.final)

    def boxes(self, boxes: Tensor, native: tuple[int, int]) -> Tensor:
        """(..., 4) xyxy, pixels of a native frame -> of the final one, cut to the part."""
        (top, left), (height, width) = self.corner, self.part
        within = boxes * _factors(native, self.scaled) - torch.tensor([left, top, left, top])
        within = within.clamp(torch.zeros(4), torch.tensor([width, height, width, height]))
        return within * _factors(self.part, self.final)


@dataclass(frozen=True, slots=True)
class ScaleAndCrop:
    """One half of the clips is brought to another size; of the other half a part is cut out first. Then, of every
    second clip, some frames at the beginning and the end are left out.

    A part may cut the target's boxes, but leaves each some area; where the drawn one does not, none is cut out.

    Args:
        sizes: short sides that a clip may be brought to, in pixels; the largest is that of the evaluation.
        sizes_before_crop: short sides of the frame that a part is cut out of.
        smallest_crop: least side of the part, in pixels.
        at_most: frames of a clip; of a longer one a window with a frame of the target is shown.

    Raises:
        ValueError: there are no sizes, or a part may be larger than what it is cut out of.

    Source: TubeDETR (Yang et al., CVPR 2022); the defaults are those at 352 pixels, at 224 it takes 128, 160, 192 and
        224, parts of at least 96 out of 100, 150 and 200. The original draws 99 more parts where the first leaves a
        box without area, of which none can be accepted; here they are drawn and not tried.
    """

    sizes: Sequence[int] = (224, 256, 288, 320, 352)
    sizes_before_crop: Sequence[int] = (200, 250, 300)
    smallest_crop: int = 192
    at_most: int = 200

    def __post_init__(self) -> None:
        if not self.sizes or not self.sizes_before_crop or min(self.sizes) < 1 or self.at_most < 1:
            raise ValueError(
                f"expected sizes of at least one pixel and at least one frame, got sizes {list(self.sizes)}, "
                f"sizes_before_crop {list(self.sizes_before_crop)} and at_most {self.at_most}"
            )
        most = min(*self.sizes_before_crop, self._longest)
        if not 1 <= self.smallest_crop <= most:
            raise ValueError(
                f"smallest_crop must lie in [1, {most}], the least of sizes_before_crop and of the longest side that "
                f"sizes allow, got {self.smallest_crop}"
            )

    @property
    def resamples(self) -> bool:
        return False

    @property
    def resolution(self) -> int:
        """The short side at which a network that is trained so is evaluated."""
        return max(self.sizes)

    def largest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        return self.resolution, self._longest

    def show(self, record: Record, choose: FrameChoice, resize: Resize | PixelResize | None, chance: int) -> ShownClip:
        """As :class:`datamodules.shown.ClipAugmentation` says; the sizes are its own, whatever ``resize``."""
        random, corners = Random(chance), torch.Generator().manual_seed(chance)
        frame_ids = choose(record)
        drawn = self.draw_part(record, frame_ids, random, corners)
        target = Tube(record.target.start, record.target.stop, drawn.boxes(record.target.boxes, record.size))
        return ShownClip(
            replace(record, target=target, size=drawn.final), self.draw_frames(record, frame_ids, random), drawn
        )

    def draw_part(
        self, record: Record, frame_ids: Sequence[int], random: Random, corners: torch.Generator
    ) -> ScaledPart:
        """The size of the picture, and the part that is shown.

        Args:
            record: the clip.
            frame_ids: of the whole clip; the boxes on them must be left some area.
            random: draws sizes.
            corners: draws where the part lies, as the original's library does.
        """
        if random.random() < 0.5:
            size = scaled_size(*record.size, random.choice(self.sizes), self._longest)
            return ScaledPart(size, (0, 0), size, size)
        scaled = scaled_size(*record.size, random.choice(self.sizes_before_crop))
        part = self._draw_sides(scaled, random)
        corner = (0, 0) if part == scaled else _draw_corner(scaled, part, corners)
        if not _leaves_area(ScaledPart(scaled, corner, part, part), record, frame_ids):
            for _ in range(_LOST_DRAWS):
                self._draw_sides(scaled, random)
            corner, part = (0, 0), scaled
        return ScaledPart(scaled, corner, part, scaled_size(*part, random.choice(self.sizes), self._longest))

    def draw_frames(self, record: Record, frame_ids: Sequence[int], random: Random) -> tuple[int, ...]:
        """The frames that are shown, to be drawn after the part."""
        start, stop = record.target.start, record.target.stop
        shown = tuple(frame_ids)
        if random.random() > 0.5 and len(shown) > 1:
            if any(start <= frame < stop for frame in shown):
                shown = crop_in_time(shown, start, stop, random)
            else:
                first = random.choice(range(len(shown) - 1))
                shown = shown[first : random.choice(range(first + 1, len(shown))) + 1]
        if len(shown) <= self.at_most:
            return shown
        inside = [index for index, frame in enumerate(shown) if start <= frame < stop]
        begins = range(len(shown) - self.at_most + 1)
        if inside:
            begins = range(max(0, inside[0] - self.at_most + 1), inside[-1] + 1)
        first = random.choice(begins)
        return shown[first : first + self.at_most]

    @property
    def _longest(self) -> int:
        return ShortSide(self.resolution).longest

    def _draw_sides(self, scaled: tuple[int, int], random: Random) -> tuple[int, int]:
        """(H, W) of a part; the width is drawn first."""
        width = random.randint(self.smallest_crop, min(scaled[1], self._longest))
        return random.randint(self.smallest_crop, min(scaled[0], self._longest)), width


def _draw_corner(scaled: tuple[int, int], part: tuple[int, int], corners: torch.Generator) -> tuple[int, int]:
    """(top, left)."""
    top, left = (
        int(torch.randint(whole - side + 1, (1,), generator=corners)) for whole, side in zip(scaled, part, strict=True)
    )
    return top, left


def _leaves_area(drawn: ScaledPart, record: Record, frame_ids: Sequence[int]) -> bool:
    """Whether each box with an area on one of the frames has one within the part."""
    ids = torch.tensor(frame_ids)
    inside = ids[(ids >= record.target.start) & (ids < record.target.stop)] - record.target.start
    boxes = record.target.boxes[inside].float()
    return bool(_has_area(drawn.boxes(boxes, record.size))[_has_area(boxes)].all())


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 0] < boxes[..., 2]) & (boxes[..., 1] < boxes[..., 3])


def _factors(before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """(4,) by which xyxy grow when (H, W) does."""
    height, width = after[0] / before[0], after[1] / before[1]
    return torch.tensor([width, height, width, height])
