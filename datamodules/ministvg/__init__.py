"""MiniSTVG, the embedded benchmark: small rendered clips in which only the whole sentence points at the answer."""

from datamodules.ministvg.actors import ACTIONS, COLOURS, SHAPES, SIZES
from datamodules.ministvg.annotations import ActorAnnotation, SceneAnnotation
from datamodules.ministvg.render import render, write_clip
from datamodules.ministvg.scene import FPS, FRAME_SIZE, NUM_FRAMES, SPLITS, VERSION, Scene, clip_seed, generate_scene
from datamodules.ministvg.sentences import ATTRIBUTES, all_sentences_sample, understand
from datamodules.ministvg.store import DamagedSplitError, ensure_split, load_annotations

__all__ = [
    "ACTIONS",
    "ATTRIBUTES",
    "COLOURS",
    "FPS",
    "FRAME_SIZE",
    "NUM_FRAMES",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "VERSION",
    "ActorAnnotation",
    "DamagedSplitError",
    "Scene",
    "SceneAnnotation",
    "all_sentences_sample",
    "clip_seed",
    "ensure_split",
    "generate_scene",
    "load_annotations",
    "render",
    "understand",
    "write_clip",
]
