"""A run in miniature: a module and a data module that offer what callbacks ask for, and do next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stvg_nst.metrics import GroundingMetrics
from stvg_nst.module import Answers
from stvg_nst.results.conditions import Conditions
from stvg_nst.tuning.base import InjectionReport, LayerReport, TunedLinear, Tuner
from stvg_nst.types import Batch, ClipInfo, Degradation, Quality, Tube

NUM_ITEMS = 3
SIZE = (24, 32)
LENGTH = 12
# True tubes cover [2, 8); the module answers that on HQ clips and [4, 10) on LQ clips, which shares 4 frames of 8.
COLOURS = {Quality.HQ: (180, 20, 200), Quality.LQ: (60, 90, 20)}  # of all pixels


def make_clip(item: int, quality: Quality) -> ClipInfo:
    return ClipInfo(
        item_id=f"item-{item}",
        query="a small red star jumps",
        sentence_type="declarative",
        quality=quality,
        degradation=Degradation("motion_blur", 3, 7) if quality is Quality.LQ else None,
        frame_ids=tuple(range(0, LENGTH, 2)),
        target=Tube(2, 8, torch.tensor([[4.0, 4.0, 20.0, 16.0]]).repeat(6, 1)),
        native_size=SIZE,
        native_length=LENGTH,
        fps=8.0,
        video=f"item-{item}.mp4",
    )


def make_batch(clips: Sequence[ClipInfo]) -> Batch:
    num_clips, num_frames = len(clips), len(clips[0].frame_ids)
    return Batch(
        clips=tuple(clips),
        frames=None,
        features=None,
        frame_mask=torch.ones(num_clips, num_frames, dtype=torch.bool),
        frame_sizes=(),
        boxes=torch.rand(num_clips, num_frames, 4),
        inside=torch.ones(num_clips, num_frames, dtype=torch.bool),
        qualities=torch.tensor([int(clip.quality) for clip in clips]),
    )


class GatedLinear(TunedLinear):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4).requires_grad_(False))
        self.row_head = nn.Linear(4, 4)
        self.null_head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.row_head(x)


@dataclass
class GatedTuner(Tuner):
    """Opens its gate by 0.9 on LQ clips and by 0.1 on HQ clips."""

    rank: int = 4

    def __post_init__(self) -> None:
        self.last: Tensor | None = None

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Linear, TunedLinear], tuple[LayerReport, ...]]:
        raise NotImplementedError

    def diagnostics(self) -> dict[str, Tensor]:
        assert self.last is not None
        gates = torch.where(self.last == Quality.LQ, 0.9, 0.1)
        return {"gate/decoder.0": gates, "gate/decoder.1": gates, "row_energy/decoder.0": torch.tensor(2.0)}


class MiniatureModule(lightning.LightningModule):
    weights = "random"
    inference = "single_pass"
    baseline: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.grounder = nn.Sequential(GatedLinear())
        self.tuner = GatedTuner()
        self.metrics = GroundingMetrics()
        layers = (LayerReport("decoder.0", (4, 4), rank=3, nullity=1, leakage=1e-9, adapter="a gate"),)
        self.injection = InjectionReport(method="GatedTuner", layers=layers, trainable=40, total=60)
        self.num_test_steps = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.tuner.last = batch.qualities
        return self.grounder(batch.boxes).square().mean()

    def validation_step(self, batch: Batch, batch_idx: int) -> Answers:
        return self._answer(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Answers:
        self.num_test_steps += 1
        return self._answer(batch)

    def _answer(self, batch: Batch) -> Answers:
        self.tuner.last = batch.qualities
        shifts = [2 if clip.quality is Quality.LQ else 0 for clip in batch.clips]
        tubes = tuple(
            Tube(clip.target.start + shift, clip.target.stop + shift, clip.target.boxes)
            for clip, shift in zip(batch.clips, shifts, strict=True)
        )
        verdicts = [0.75 if clip.quality is Quality.LQ else 0.25 for clip in batch.clips]
        self.metrics.update(tubes, batch.clips, verdicts)
        return {"tubes": tubes, "verdicts": verdicts}

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.metrics.compute().items()})
        self.metrics.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class MiniatureData(lightning.LightningDataModule):
    seed = 5

    def __init__(self, num_skipped: int = 0) -> None:
        super().__init__()
        self.num_skipped = num_skipped

    def provenance(self) -> dict[str, Any]:
        return {"dataset": "miniature", "benchmark_seed": 3, "degradations": "D-test"}

    def degradations(self) -> dict[str, Any]:
        return {"version": "D-test", "benchmark_seed": 3, "source": "on the fly", "pixels": {}, "golden": False}

    def conditions(self, stage: str) -> Conditions:
        return Conditions("miniature", "val", 3)

    def skipped(self, split: str) -> int:
        return self.num_skipped

    def policies(self) -> dict[str, dict[str, Any]]:
        touched = {"val": {"sentences": 2, "clips": 1, "frames": 7}}
        return {"on_bad_box": {"policy": "skip_frame", "touched": touched}}

    def pixels(self, info: ClipInfo) -> np.ndarray:
        return np.full((len(info.frame_ids), *SIZE, 3), COLOURS[info.quality], dtype=np.uint8)

    def train_dataloader(self) -> DataLoader[Batch]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._loader()

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader()

    def _loader(self) -> DataLoader[Batch]:
        clips = [make_clip(item, quality) for item in range(NUM_ITEMS) for quality in Quality]
        return DataLoader(clips, batch_size=2, collate_fn=make_batch)


class Run:
    """Fits and tests the miniature in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = MiniatureModule()

    def trainer(self, *callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
        defaults = {
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": TensorBoardLogger(self.folder, name="", version="tensorboard"),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "log_every_n_steps": 1,
        }
        return lightning.Trainer(default_root_dir=self.folder, callbacks=list(callbacks), **(defaults | options))

    def fit(self, *callbacks: lightning.Callback, **options: Any) -> None:
        self.trainer(*callbacks, **options).fit(self.module, datamodule=MiniatureData())

    def test(self, *callbacks: lightning.Callback, num_skipped: int = 0, **options: Any) -> None:
        data = MiniatureData(num_skipped)
        self.trainer(*callbacks, **options).test(self.module, datamodule=data, verbose=False)

    def data(self) -> MiniatureData:
        return MiniatureData()

    def events(self) -> EventAccumulator:
        """What TensorBoard would read."""
        return EventAccumulator(str(self.folder / "tensorboard"), size_guidance={"images": 0, "histograms": 0}).Reload()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.manual_seed(0)
    return Run(tmp_path / "run")


@pytest.fixture
def colours() -> dict[Quality, tuple[int, int, int]]:
    return COLOURS


@pytest.fixture
def clip() -> Callable[[int, Quality], ClipInfo]:
    return make_clip
