"""Shows predicted over true tubes on the pixels that the network saw."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from PIL import Image

from callbacks.run import grounding_data, grounding_module, leaves_files, run_folder, tensorboard_writers
from callbacks.strip import draw_strip
from stvg_nst.best_effort import BestEffort
from stvg_nst.drawing import stack_strips
from stvg_nst.evaluation import load_predictions
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.results.run_folder import RunFile
from stvg_nst.types import Batch, ClipInfo, Quality, Tube

if TYPE_CHECKING:
    from stvg_nst.module import GroundingModule

Strips = dict[Quality, np.ndarray]
"""Of one item."""


class TubeVisualizer(lightning.Callback):
    """Draws the first few items of a validation or test, each in high and in low quality.

    TensorBoard gets an image for each quality, ``tubes/HQ`` and ``tubes/LQ`` after a validation and ``tubes_test/HQ``
    and ``tubes_test/LQ`` after a test, with the items in the same order. A test also leaves ``tubes.png`` in the run's
    folder, with HQ above LQ of each item. In distributed runs the items are those of rank 0. Where a baseline was
    given, what it answered is drawn too: its tubes are read from the predictions beside its results.

    What cannot be drawn is left out with one warning: an item whose video is gone while its features are cached, say.

    Args:
        num_clips: items to draw.
        num_shown: frames to show of each, spread evenly.
    """

    def __init__(self, *, num_clips: int = 4, num_shown: int = 8) -> None:
        if num_clips < 1 or num_shown < 1:
            raise ValueError(f"num_clips and num_shown must be at least 1, got {num_clips} and {num_shown}")
        self.num_clips = num_clips
        self.num_shown = num_shown
        self._items: dict[str, dict[Quality, tuple[ClipInfo, Tube]]] = {}
        self._best_effort = BestEffort("pictures of tubes")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._items.clear()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._items.clear()

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(batch.clips, outputs["tubes"])

    def on_test_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._collect(batch.clips, outputs["tubes"])

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            with self._best_effort:
                self._log(trainer, self._draw(trainer, grounding_module(pl_module)), "tubes")

    def on_test_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        strips = self._draw(trainer, grounding_module(pl_module))
        with self._best_effort:
            self._log(trainer, strips, "tubes_test")
        if leaves_files(trainer):
            with self._best_effort:
                self._save(run_folder(trainer) / RunFile.TUBES, strips)

    def _save(self, path: Path, strips: list[Strips]) -> None:
        path.unlink(missing_ok=True)  # an earlier test's, which does not show these tubes
        shown = [strip for qualities in strips for _, strip in sorted(qualities.items())]
        if shown:
            buffer = io.BytesIO()
            Image.fromarray(stack_strips(shown)).save(buffer, format="PNG", optimize=True)
            write_whole(path, buffer.getvalue())

    def _collect(self, clips: tuple[ClipInfo, ...], tubes: tuple[Tube, ...]) -> None:
        for info, tube in zip(clips, tubes, strict=True):
            if info.item_id in self._items or len(self._items) < self.num_clips:
                self._items.setdefault(info.item_id, {})[info.quality] = (info, tube)

    def _draw(self, trainer: lightning.Trainer, module: GroundingModule) -> list[Strips]:
        drawn = []
        frozen: Mapping[tuple[str, str], Tube] = {}
        if module.baseline is not None:
            with self._best_effort:
                shown = {(name, info.condition) for name, each in self._items.items() for info, _ in each.values()}
                frozen = read_tubes(module.baseline.path.parent / RunFile.PREDICTIONS, shown)
        for qualities in self._items.values():
            strips: Strips = {}
            for quality, (info, tube) in qualities.items():
                with self._best_effort:
                    pixels = grounding_data(trainer).pixels(info)
                    before = frozen.get((info.item_id, info.condition))
                    strips[quality] = draw_strip(pixels, info, tube, frozen=before, num_shown=self.num_shown)
            drawn.append(strips)
        return drawn

    def _log(self, trainer: lightning.Trainer, strips: list[Strips], prefix: str) -> None:
        for quality in Quality:
            rows = [qualities[quality] for qualities in strips if quality in qualities]
            for writer in tensorboard_writers(trainer) if rows else ():
                writer.add_image(f"{prefix}/{quality.name}", stack_strips(rows), trainer.global_step, dataformats="HWC")


def read_tubes(path: Path, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], Tube]:
    """Tubes of a file of predictions, by item and condition, as far as they are wanted and there.

    Raises:
        OSError, ValueError: there is no such file, or it is damaged.
    """
    found = load_predictions(path)
    tubes = {}
    for row, key in enumerate(zip(found.item_ids, found.conditions, strict=True)):
        if key in wanted:
            one = found.tubes.take(np.array([row]))
            tubes[key] = Tube(int(one.start[0]), int(one.stop[0]), torch.from_numpy(one.boxes).float())
    return tubes
