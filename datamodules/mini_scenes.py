"""MiniSTVG with everything that is in a clip, for pretraining the miniature's visual encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.clips import start_worker
from datamodules.mini import TRAINING_CLIPS
from datamodules.ministvg import COLOURS, SHAPES, SIZES, SceneAnnotation, ensure_split, load_annotations
from datamodules.sampling import sample_frames
from datamodules.transforms import normalise
from datamodules.video import read_frames
from stvg_nst.boxes import xyxy_to_cxcywh
from stvg_nst.types import SceneBatch

Scene = tuple[Tensor, Tensor, Tensor, Tensor]


class MiniScenes(lightning.LightningDataModule):
    """HQ clips of the pretraining split, with the looks, boxes and actions of all actors.

    Args:
        root: folder that holds, or will hold, the rendered clips.
        num_clips: the first so many clips of the split.
        num_frames: frames sampled of each clip.
        batch_size: clips of a batch.
        num_workers: loader processes.
    """

    def __init__(
        self,
        root: Path = Path("data"),
        *,
        num_clips: int = TRAINING_CLIPS["pretrain"],
        num_frames: int = 16,
        batch_size: int = 16,
        num_workers: int = 1,
    ) -> None:
        super().__init__()
        self.root = root
        self.num_clips = num_clips
        self.num_frames = num_frames
        self.batch_size = batch_size
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        self.scenes = load_annotations(
            ensure_split(self.root, "pretrain", num_clips=self.num_clips), num_clips=self.num_clips
        )

    def train_dataloader(self) -> DataLoader[Scene]:
        return DataLoader(
            _SceneDataset(self.scenes, self.num_frames),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.num_workers,
            collate_fn=_collate,
            worker_init_fn=start_worker,
            persistent_workers=self.num_workers > 0,
        )


class _SceneDataset(Dataset[Scene]):
    def __init__(self, scenes: Sequence[SceneAnnotation], num_frames: int) -> None:
        self._scenes = scenes
        self._num_frames = num_frames

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> Scene:
        scene = self._scenes[index]
        frame_ids = sample_frames(scene.num_frames, self._num_frames)
        frames = normalise(read_frames(scene.file, frame_ids, expected_size=scene.size))
        height, width = scene.size
        boxes = torch.tensor(np.stack([actor.boxes for actor in scene.actors]))[:, list(frame_ids)].float()
        looks = torch.tensor(
            [[SHAPES.index(a.shape), COLOURS.index(a.colour), SIZES.index(a.size)] for a in scene.actors]
        )
        actions = torch.tensor([[int(a.actions[i]) for i in frame_ids] for a in scene.actors])
        return frames, xyxy_to_cxcywh(boxes) / torch.tensor((width, height, width, height)), looks, actions


def _collate(scenes: Sequence[Scene]) -> SceneBatch:
    frames, boxes, looks, actions = zip(*scenes, strict=True)

    def pad(tensors: Sequence[Tensor], value: float) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(tensors), batch_first=True, padding_value=value)

    return SceneBatch(torch.stack(frames), pad(boxes, 0.0), pad(looks, -1), pad(actions, -1))
