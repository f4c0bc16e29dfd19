"""The data sets that lie on disk with their annotations, by the names that the `data` commands have for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from datamodules.annotated import AnnotatedSource
from datamodules.hcstvg.source import HCSTVGSource
from datamodules.own_clips.source import OwnClipsSource
from datamodules.vidstg.source import VidSTGSource

DATA_SETS: Mapping[str, Callable[[Path], AnnotatedSource]] = {
    "hcstvg_v1": partial(HCSTVGSource, version="v1"),
    "hcstvg_v2": partial(HCSTVGSource, version="v2"),
    "vidstg": VidSTGSource,
    "own_clips": OwnClipsSource,
}


def open_source(name: str, root: Path) -> AnnotatedSource:
    """The files of the data set called ``name`` below ``root``."""
    return DATA_SETS[name](root)
