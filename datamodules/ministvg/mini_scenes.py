"""MiniSTVG with everything that is in a clip, for pretraining the miniature's visual encoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from datamodules.loaders import load_batches
from datamodules.ministvg import COLOURS, SHAPES, SIZES, SceneAnnotation, ensure_split, load_annotations
from datamodules.ministvg.data_module import TRAINING_CLIPS
from datamodules.sampling import sample_frames
from datamodules.transforms import normalise
from datamodules.video import read_frames
from stvg_nst.boxes import xyxy_to_cxcywh
from stvg_nst.types import SceneBatch

Scene = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(eq=False)
class MiniScenes(lightning.LightningDataModule):
    """HQ clips of the pretraining split, with the looks, boxes and actions of all actors."""

    root: Path = Path("data")
    """folder that holds, or will hold, the rendered clips."""

    _: KW_ONLY

    num_clips: int = TRAINING_CLIPS["pretrain"]
    """the first so many clips of the split."""

    num_frames: int = 16
    """frames sampled of each clip."""

    batch_size: int = 16
    """clips of a batch."""

    num_workers: int = 1
    """loader processes."""

    def __post_init__(self) -> None:
        super().__init__()

    def setup(self, stage: str) -> None:
        self.scenes = load_annotations(
            ensure_split(self.root, "pretrain", num_clips=self.num_clips), num_clips=self.num_clips
        )

    def train_dataloader(self) -> DataLoader[Scene]:
        dataset = _SceneDataset(self.scenes, self.num_frames)
        height, width = self.scenes[0].size
        return load_batches(
            dataset,
            _collate,
            batch_size=self.batch_size,
            sampler=RandomSampler(dataset),
            num_workers=self.num_workers,
            batch_bytes=4 * self.batch_size * self.num_frames * 3 * height * width,
            persistent=True,
            drop_last=True,
            option="--data.num_workers",
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
