"""What a training clip is shown as, once chance has had its say: the interface of every augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from datamodules.records import Record
from datamodules.sampling import FrameChoice
from datamodules.transforms import PixelResize, Resize


@dataclass(frozen=True, slots=True)
class ShownClip:
    """One showing of a record.

    Args:
        record: its sentence, its answer and its size are those of the picture that is shown.
        frame_ids: native, strictly increasing.
        resize: from native frames, mirrored where they are, to the network's size; ``None`` leaves them as they are.
        mirrored: left and right change places.
    """

    record: Record
    frame_ids: tuple[int, ...]
    resize: Resize | PixelResize | None
    mirrored: bool = False


class ClipAugmentation(Protocol):
    """Shows a training clip in another way every time."""

    @property
    def resamples(self) -> bool:
        """Whether it shows other frames than some of those that the whole clip shows."""

    def show(self, record: Record, choose: FrameChoice, resize: Resize | PixelResize | None, chance: int) -> ShownClip:
        """What is shown of a record.

        Args:
            record: the clip.
            choose: the frames of the whole clip, or of a part of it.
            resize: as the clip is shown without augmentation.
            chance: seeds all draws.
        """

    def largest_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of as many pixels as a frame has at most, which without augmentation is brought to ``size``."""
