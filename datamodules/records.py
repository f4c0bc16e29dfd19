"""What every data set is reduced to before pixels are touched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stvg_nst.types import SentenceType, Tube


@dataclass(frozen=True, slots=True)
class Record:
    """A sentence about a video, and its answer.

    Args:
        item_id: unique in the split.
        clip_id: the video's name in the split; sentences about one clip share its pixels and its degradation.
        video: path of the video file.
        query: the sentence.
        sentence_type: declarative or interrogative.
        target: the true tube; all of the segment, without a box, where nobody has said it.
        segment: half-open span of native frames that is shown: the clip, within its video.
        num_frames: frames that the annotation says the video has, those outside the segment included.
        fps: frames per second that it says.
        size: (H, W) that it says; a file of another size is refused when it is read.
        has_tube: whether the target is known.
    """

    item_id: str
    clip_id: str
    video: Path
    query: str
    sentence_type: SentenceType
    target: Tube
    segment: tuple[int, int]
    num_frames: int
    fps: float
    size: tuple[int, int]
    has_tube: bool = True
