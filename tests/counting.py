"""A fit in miniature that says what it does: epochs of three batches of two numbers, and of two in validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

CLIPS = 6


class Counting(lightning.LightningModule):
    """Notes each batch as (stage, epoch, number, content); ``at`` is called before each with the first three."""

    def __init__(
        self,
        at: Callable[[str, int, int], None] = lambda *place: None,
        *,
        kind: Callable[..., Optimizer] = AdamW,
        **options: Any,
    ) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.at, self.kind, self.options = at, kind, {"lr": 0.1} | options
        self.seen: list[tuple[str, int, int, list[int]]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._note("train", batch, batch_idx)
        return self.layer(batch[:, None].float()).mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._note("val", batch, batch_idx)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self._note("test", batch, batch_idx)

    def _note(self, stage: str, batch: Tensor, number: int) -> None:
        self.at(stage, self.current_epoch, number)
        self.seen.append((stage, self.current_epoch, number, batch.tolist()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["adapter"] = {}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[dict[str, Any]]]:
        optimizer = self.kind(self.parameters(), **self.options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Numbers(lightning.LightningDataModule):
    def __init__(self, batch_size: int = 2) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(CLIPS), batch_size=self.batch_size)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[int]:
        return DataLoader(range(4), batch_size=2)  # type: ignore[arg-type]

    test_dataloader = val_dataloader

    def training_fingerprint(self) -> str:
        return "six numbers"


def make_trainer(folder: Path, *callbacks: lightning.Callback, **options: Any) -> lightning.Trainer:
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = lightning.Trainer(
        default_root_dir=folder, callbacks=[ModelCheckpoint(save_last=True)], **(defaults | options)
    )
    trainer.callbacks += callbacks
    return trainer
