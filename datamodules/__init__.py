"""Where pixels come from: decoding, degradation, data sets as Lightning data modules."""

from datamodules.base import STVGDataModule
from datamodules.hcstvg.data_module import HCSTVG
from datamodules.ministvg.data_module import MiniSTVG
from datamodules.ministvg.mini_scenes import MiniScenes
from datamodules.own_clips.data_module import OwnClips
from datamodules.vidstg.data_module import VidSTG

__all__ = ["HCSTVG", "MiniSTVG", "MiniScenes", "OwnClips", "STVGDataModule", "VidSTG"]
