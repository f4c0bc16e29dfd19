"""Where pixels come from: decoding, degradation, data sets as Lightning data modules."""

from datamodules.base import STVGDataModule
from datamodules.mini import MiniSTVG
from datamodules.mini_scenes import MiniScenes

__all__ = ["MiniSTVG", "MiniScenes", "STVGDataModule"]
