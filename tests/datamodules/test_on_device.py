"""Frames that are finished on the device are those that a loader finishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules import HCSTVG
from datamodules.clips import ClipDataset, collate
from datamodules.on_device import finish_on_device
from datamodules.pixels import PixelSource
from datamodules.quality import Draw
from datamodules.records import Record
from datamodules.sampling import EvenFrames
from datamodules.transforms import Resize, Resizing, ShortSide
from stvg_nst.types import Batch, Degradation, Tube
from tests.datamodules.published import hcstvg_item

WAYS = [Resize(40, antialias=True), Resize(24, antialias=False), None, ShortSide(30)]


class Noise(PixelSource):
    """Frames without a video, another picture for every record and frame."""

    def read(self, record: Record, frame_ids: Any, degradation: Any) -> np.ndarray:
        generator = np.random.default_rng(len(record.clip_id) + 10 * (degradation is None))
        return generator.integers(0, 256, (len(frame_ids), *record.size, 3), dtype=np.uint8)


def records() -> list[Record]:
    """Of three sizes and lengths."""
    tube = Tube(0, 1, torch.tensor([[1.0, 2.0, 9.0, 8.0]]))
    sizes = [(36, 64), (48, 30), (36, 64), (20, 20)]
    return [
        Record("i", "c" * (row + 1), Path("v"), "q", "declarative", tube, (0, 3 + row), 9, 25.0, size)
        for row, size in enumerate(sizes)
    ]


def batch_of(resize: Resizing | None, *, finished: bool) -> Batch:
    dataset = ClipDataset(records(), EvenFrames(8), resize, Noise(), None, twins=True, finished=finished)
    dark = Degradation("low_light", 3, 0)
    extra = (Draw(3, None), Draw(2, dark))
    return collate([dataset[draw] for draw in (Draw(0, None, extra=extra), Draw(1, dark), Draw(2, None))])


def finished_on(device: str, resize: Resizing | None) -> tuple[Batch, Batch]:
    """The batch of a loader that finishes clips, and one that is finished on the device and brought back."""
    brought = batch_of(resize, finished=False).to(device)
    left = resize if isinstance(resize, Resize) else None
    return batch_of(resize, finished=True), finish_on_device(brought, left).to("cpu")


def check(loaded: Any, brought: Any, bound: float) -> None:
    assert brought.frames.dtype == torch.float32 and brought.frame_sizes == loaded.frame_sizes
    torch.testing.assert_close(brought.frames, loaded.frames, atol=bound, rtol=0)


@pytest.mark.parametrize("resize", WAYS, ids=repr)
def test_every_clip_comes_out_as_from_a_loader(resize: Resizing | None) -> None:
    loaded, brought = finished_on("cpu", resize)
    assert loaded.twins is not None and loaded.extra is not None
    for ours, theirs in ((brought, loaded), (brought.twins, loaded.twins), (brought.extra, loaded.extra)):
        check(theirs, ours, 1e-6)
    assert torch.equal(brought.boxes, loaded.boxes) and torch.equal(brought.frame_mask, loaded.frame_mask)


@pytest.mark.gpu
@pytest.mark.parametrize("resize", WAYS, ids=repr)
def test_a_gpu_finishes_clips_within_a_bound(resize: Resizing | None) -> None:
    loaded, brought = finished_on("cuda", resize)
    check(loaded, brought, 1e-5)


@pytest.mark.parametrize("antialias", [True, False])
def test_pixels_are_those_of_the_published_code(shared: Path, antialias: bool) -> None:
    golden = np.load(shared / "cgstvg" / "golden" / "15_resize.npz")
    mean, std = np.array([0.485, 0.456, 0.406])[:, None, None], np.array([0.229, 0.224, 0.225])[:, None, None]
    unfinished = batch_of(None, finished=False)
    for case in range(4):
        levels = torch.from_numpy(golden[f"{case}_in"]).permute(2, 0, 1)[None, None]
        batch = replace(
            unfinished,
            frames=levels,
            frame_mask=torch.ones(1, 1, dtype=torch.bool),
            frame_sizes=(tuple(levels.shape[-2:]),),
            twins=None,
            extra=None,
        )
        frames = finish_on_device(batch, Resize(42, antialias)).frames
        assert frames is not None
        expected = golden[f"{case}_{'' if antialias else 'no'}antialias"]
        np.testing.assert_allclose(frames[0, 0].numpy() * std + mean, expected, atol=2e-6)


def test_bytes_travel_as_they_come_out_of_a_video() -> None:
    frames = batch_of(Resize(40, antialias=True), finished=False).frames
    assert frames is not None and frames.dtype == torch.uint8 and frames.shape == (3, 5, 3, 48, 64)
    assert frames.permute(0, 1, 3, 4, 2).is_contiguous()
    sizes = {}
    for resize in (Resize(40, antialias=True), ShortSide(30)):
        for finished in (True, False):
            dataset = ClipDataset(records(), EvenFrames(8), resize, Noise(), None, finished=finished)
            sizes[type(resize), finished] = dataset.batch_bytes([Draw(0, None)])
    assert sizes == {
        (Resize, True): 4 * 3 * 3 * 40 * 56,
        (Resize, False): 3 * 3 * 36 * 64,
        (ShortSide, True): 4 * 3 * 3 * 28 * 49,
        (ShortSide, False): 3 * 3 * 28 * 49,
    }


class Watcher(lightning.LightningModule):
    """Keeps the frames that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(1)), list[Tensor]()

    def test_step(self, batch: Batch, batch_index: int) -> None:
        assert batch.frames is not None
        self.seen.append(batch.frames)


@pytest.mark.parametrize(("finish_on", "bytes_travel"), [("auto", False), ("loader", False), ("device", True)])
def test_a_run_sees_the_same_wherever_clips_are_finished(
    hcstvg: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, finish_on: Any, bytes_travel: bool
) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    options: dict[str, Any] = {"expect_official_counts": False, "num_workers": 0, "resolution": 30}
    data, plain = HCSTVG(root, finish_on=finish_on, **options), HCSTVG(root, **options)
    travelled = []
    finish = HCSTVG.on_after_batch_transfer

    def watched(self: HCSTVG, batch: Batch, index: int) -> Batch:
        assert batch.frames is not None
        travelled.append(batch.frames.dtype == torch.uint8)
        return finish(self, batch, index)

    monkeypatch.setattr(HCSTVG, "on_after_batch_transfer", watched)
    module = Watcher()
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, barebones=True
    )
    trainer.test(module, data, verbose=False)
    assert travelled == [bytes_travel] * 4
    plain.setup("test")
    for ours, batch in zip(module.seen, plain.test_dataloader(), strict=True):
        torch.testing.assert_close(ours, batch.frames, atol=1e-6, rtol=0)
