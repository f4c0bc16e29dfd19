"""VidSTG as a data module."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.annotated import AnnotatedSource
from datamodules.annotated_videos import AnnotatedVideos
from datamodules.sampling import EvenFrames, FrameChoice
from datamodules.splits import Split
from datamodules.vidstg.source import VidSTGSource


@dataclass(eq=False)
class VidSTG(AnnotatedVideos):
    """Objects of 80 kinds in home videos: segments of untrimmed videos, declarative and interrogative sentences."""

    root: Path = Path("data/vidstg")

    _: KW_ONLY

    validation: Literal["held_out", "official"] = "held_out"
    """``held_out`` validates on a part of the training set that is not trained on, as on the other data sets;
    ``official`` on the published validation set, and trains on all of the training set."""

    held_out: float = 0.1
    """share of the training set's videos that ``val`` gets."""

    num_frames: int = 64
    """frames sampled of a segment, in training, where there is no ``sampling``."""

    eval_num_frames: int = 64
    """and in validation and test."""

    antialias: bool = False

    def __post_init__(self) -> None:
        if self.validation == "official":
            self.held_out = 0.0
        elif not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out}; or set validation to official")
        super().__post_init__()
        self.require_at_least("num_frames", 1)
        self.require_at_least("eval_num_frames", 1)
        self.num_frames_of: dict[Split, int] = {
            "train": self.num_frames,
            "val": self.eval_num_frames,
            "test": self.eval_num_frames,
        }

    @property
    def clip_seconds(self) -> float:
        return 90.0  # of the 3,996 segments of the validation set 99 in 100 are no longer

    def annotated_source(self) -> AnnotatedSource:
        return VidSTGSource(self.root, self.convention)

    def frame_choice(self, split: Split) -> FrameChoice:
        return self.sampling or EvenFrames(self.num_frames_of[split])

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "num_frames": dict(self.num_frames_of)}
