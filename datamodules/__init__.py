"""Where pixels come from: decoding, degradation, data sets as Lightning data modules."""

from datamodules.base import STVGDataModule
from datamodules.hcstvg import HCSTVG
from datamodules.mini import MiniSTVG
from datamodules.mini_scenes import MiniScenes
from datamodules.vidstg import VidSTG

__all__ = ["HCSTVG", "MiniSTVG", "MiniScenes", "STVGDataModule", "VidSTG"]
