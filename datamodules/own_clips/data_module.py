"""Anyone's own clips, as a data module."""

from __future__ import annotations

import hashlib
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from datamodules.annotated import AnnotatedSource
from datamodules.annotated_videos import AnnotatedVideos
from datamodules.base import CLIP_TOLERANCE
from datamodules.own_clips.format import video_of
from datamodules.own_clips.source import OwnClipsSource
from datamodules.records import Record
from datamodules.sampling import EvenFrames, FrameChoice, FramesAtRate
from datamodules.splits import Split
from stvg_nst.counting import counted
from stvg_nst.results.conditions import Conditions


@dataclass(eq=False)
class OwnClips(AnnotatedVideos):
    """Your own clips: JSON lines beside videos, split by video; docs/own_clips.md shows it.

    How a clip is shown belongs to the network: take the numbers that it was trained with.
    """

    root: Path = Path("data/own")
    """folder of ``annotations.jsonl`` and of the videos."""

    _: KW_ONLY

    frame_rate: float | None = 3.2
    """frames sampled a second; ``null`` where ``num_frames`` or ``sampling`` says which."""

    num_frames: int | None = None
    """frames sampled of a clip, spread evenly; ``null`` where ``frame_rate`` or ``sampling`` says which."""

    longest_clip: float = 20.0
    """seconds that the network's clips last at most; longer ones are refused."""

    held_out: float = 0.0
    """a data set of your own has its own validation split: leave it at 0."""

    def __post_init__(self) -> None:
        ways = (self.frame_rate, self.num_frames, self.sampling)
        if sum(way is not None for way in ways) != 1:
            raise ValueError(
                "a clip is sampled by one of frame_rate, num_frames and sampling of --data.init_args, and the others "
                f"are null, got {', '.join(map(str, ways))}"
            )
        for option in ("frame_rate", "num_frames", "longest_clip"):
            value = getattr(self, option)
            if value is not None and not value > 0:
                raise ValueError(f"--data.init_args.{option} must be positive, got {value}")
        if self.convention != "annotated":
            raise ValueError(
                f"--data.init_args.convention {self.convention} is about published files, and this is a data set of "
                "your own: leave it at 'annotated'"
            )
        if self.held_out:
            raise ValueError(
                f"--data.init_args.held_out must be 0, got {self.held_out}: give lines of the annotations a 'split' "
                "to choose which videos are held out"
            )
        super().__post_init__()

    @property
    def clip_seconds(self) -> float:
        return self.longest_clip

    def annotated_source(self) -> AnnotatedSource:
        return OwnClipsSource(self.root)

    def frame_choice(self, split: Split) -> FrameChoice:
        if self.num_frames is not None:
            return EvenFrames(self.num_frames)
        if self.frame_rate is not None:
            return FramesAtRate(self.frame_rate)
        assert self.sampling is not None
        return self.sampling

    def load_records(self, split: Split) -> tuple[Record, ...]:
        """As of any annotated videos.

        Raises:
            ValueError: as there; or a clip is longer than the network's clips.
        """
        records = super().load_records(split)
        lengths = {record.clip_id: (record.segment[1] - record.segment[0]) / record.fps for record in records}
        long = {
            clip: seconds for clip, seconds in lengths.items() if seconds > self.longest_clip * (1 + CLIP_TOLERANCE)
        }
        if long:
            clip, seconds = next(iter(long.items()))
            raise ValueError(
                f"the {split} split has {counted(len(long), 'clip')} longer than the network's {self.longest_clip:g} "
                f"s, the first '{clip}' ({seconds:.1f} s); give their lines a 'part', or cut the videos"
            )
        return records

    def cut_from(self, clip_id: str) -> str:
        return video_of(clip_id)

    def conditions(self, stage: str) -> Conditions:
        """As of any annotated videos; numbers compare only under the same annotations."""
        found = super().conditions(stage)
        digest = hashlib.sha256(self.source.annotation_file("test").read_bytes()).hexdigest()
        return found._replace(dataset=f"{found.dataset}, annotations {digest[:8]}")

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "num_frames": self.num_frames, "frame_rate": self.frame_rate}
