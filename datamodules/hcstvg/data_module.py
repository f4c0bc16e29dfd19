"""HC-STVG, versions 1 and 2, as a data module."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.annotated import AnnotatedSource
from datamodules.annotated_videos import AnnotatedVideos
from datamodules.hcstvg.source import HCSTVGSource
from datamodules.sampling import FrameChoice, FramesAtRate
from datamodules.splits import Split


@dataclass(eq=False)
class HCSTVG(AnnotatedVideos):
    """People in films: clips of 20 seconds, one declarative sentence each.

    ``val`` is held out of the published training set; ``test`` is the published test set of version 1, and the
    published validation set of version 2.
    """

    root: Path = Path("data/hc-stvg")
    """folder of ``annos/`` and of the videos; docs/data.md shows it."""

    _: KW_ONLY

    version: Literal["v1", "v2"] = "v1"
    """``v1`` or ``v2``."""

    frame_rate: float = 3.2
    """frames sampled a second, in training, where there is no ``sampling``."""

    eval_frame_rate: float = 3.2
    """and in validation and test."""

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1): HC-STVG has no other set to choose on, got {self.held_out}")
        super().__post_init__()
        self.frame_rates = {"train": self.frame_rate, "val": self.eval_frame_rate, "test": self.eval_frame_rate}

    def annotated_source(self) -> AnnotatedSource:
        return HCSTVGSource(self.root, self.version, self.convention)

    def frame_choice(self, split: Split) -> FrameChoice:
        return self.sampling or FramesAtRate(self.frame_rates[split])

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "frame_rates": dict(self.frame_rates)}
