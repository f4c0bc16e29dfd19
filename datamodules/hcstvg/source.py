"""Where HC-STVG's files lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from datamodules.annotated import AnnotatedSource, Convention, Reading
from datamodules.annotated.source import OfficialSplit
from datamodules.hcstvg.format import read_hcstvg

_YOUTUBE = re.compile(r"\d+_.*?([\w-]{11})")


class HCSTVGSource(AnnotatedSource):
    """HC-STVG.

    Version 2 is tested on its official validation set, as in the literature: the answers of its test set are not
    published.

    Args:
        root: holds ``v1_video`` (``v2_video``, or ``video``) and ``annos/hcstvg_v1`` (``v2``) with ``train.json`` and
            ``test.json``, in version 2 also under the original names ``trainv2.json`` and ``valv2.json``.
        version: ``v1`` or ``v2``.
        convention: of the tubes, see :func:`datamodules.hcstvg.format.parse_hcstvg`.
    """

    def __init__(self, root: Path, version: Literal["v1", "v2"], convention: Convention = "annotated") -> None:
        super().__init__(root)
        self._convention = convention
        self.version = version
        self.name = "hcstvg_v1" if version == "v1" else "hcstvg_v2"
        self.official_counts = {"train": (4500, 0), "test": (1160, 0)}
        if version == "v2":
            self.official_counts = {"train": (10131, 0), "test": (2000, 0)}

    def film(self, video: str) -> str:
        """The eleven characters that name a film on YouTube, from ``NUMBER_NAME.mp4``; else the video's name."""
        match = _YOUTUBE.fullmatch(Path(video).stem)
        return match[1] if match else video

    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        names = [f"{split}.json"]
        if self.version == "v2":
            names.append({"train": "trainv2.json", "test": "valv2.json"}[split])
        return [self.root / "annos" / f"hcstvg_{self.version}" / name for name in names]

    def _read(self, file: Path, split: OfficialSplit) -> Reading:
        return read_hcstvg(file, self._convention)

    def _video_folders(self) -> Sequence[Path]:
        return self.root / f"{self.version}_video", self.root / "video"
