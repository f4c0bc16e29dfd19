"""From a record and a draw to a clip, and from clips to a batch: what a loader's processes do."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.caches.features import FeatureCache, feature_key
from datamodules.pixels import PixelSource
from datamodules.quality import Draw
from datamodules.records import Record
from datamodules.sampling import FrameChoice
from datamodules.shown import ClipAugmentation, ShownClip
from datamodules.transforms import Resize, Resizing, to_device, to_network
from stvg_nst.boxes import xyxy_to_cxcywh
from stvg_nst.types import (
    BackboneFeatures,
    Batch,
    Clip,
    ClipInfo,
    Degradation,
    Quality,
    QualityBatch,
    QualityClip,
    with_box,
)


class ClipDataset(Dataset[Clip]):
    """Loads the draws that a sampler deals; all randomness is in the draw, so that workers need no state.

    Args:
        twins: give each degraded clip its high-quality twin.
        finished: frames are what the network takes; otherwise uint8, for
            :func:`datamodules.on_device.finish_on_device` to finish.
    """

    def __init__(
        self,
        records: Sequence[Record],
        choose: FrameChoice,
        resize: Resizing | None,
        pixels: PixelSource,
        cache: FeatureCache | None,
        augmentation: ClipAugmentation | None = None,
        twins: bool = False,
        finished: bool = True,
    ) -> None:
        self._records = records
        self._choose = choose
        self._resize = resize
        self._pixels = pixels
        self._cache = cache
        self._augmentation = augmentation
        self._twins = twins
        self._finished = finished

    def __getitem__(self, draw: Draw) -> Clip:
        twin = self._load(replace(draw, degradation=None)) if self._has_twin(draw) else None
        return replace(self._load(draw), twin=twin, extra=tuple(map(self._load_quality, draw.extra)))

    def _has_twin(self, draw: Draw) -> bool:
        return self._twins and draw.degradation is not None

    def _load(self, draw: Draw) -> Clip:
        shown = self._show(draw)
        info = describe_sample(shown.record, shown.frame_ids, draw.degradation)
        boxes, inside = _sample_target(info)
        return Clip(info, *self._read(draw, shown), boxes, inside)

    def _load_quality(self, draw: Draw) -> QualityClip:
        return QualityClip(*self._read(draw, self._show_as_it_is(draw)), draw.quality)

    def _read(self, draw: Draw, shown: ShownClip) -> tuple[Tensor | None, BackboneFeatures | None]:
        """Frames for the network, or the features that stand in for them."""
        record = self._records[draw.index]
        if self._cache is not None:
            return None, self._cache.read(feature_key(record.clip_id, draw.degradation))
        pixels = self._pixels.read(record, shown.frame_ids, draw.degradation)
        if shown.mirrored:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return (to_network if self._finished else to_device)(pixels, shown.resize), None

    def count_boxes(self, draw: Draw) -> int:
        """The true boxes of a draw that teach, without reading its frames."""
        shown = self._show(draw)
        boxes, inside = _sample_target(describe_sample(shown.record, shown.frame_ids, draw.degradation))
        return int(with_box(boxes, inside).sum())

    def batch_bytes(self, draws: Sequence[Draw]) -> int:
        """Bytes of a batch of these samples with their twins, without reading any: all are padded to the largest."""
        every = [shown for draw in draws for shown in (draw, *[draw] * self._has_twin(draw), *draw.extra)]
        return len(every) * max(map(self._sample_bytes, every), default=0)

    def _sample_bytes(self, draw: Draw) -> int:
        if self._cache is not None:
            return 2 * self._cache.largest_version_bytes  # half precision on disk, single in a batch
        record = self._records[draw.index]
        height, width = record.size
        if self._resize is not None and (self._finished or not isinstance(self._resize, Resize)):
            height, width = self._resize.size(height, width)
        if self._augmentation is not None:
            height, width = self._augmentation.largest_size((height, width))
        return (4 if self._finished else 1) * len(self._choose(record)) * 3 * height * width

    def _show(self, draw: Draw) -> ShownClip:
        if self._augmentation is None or draw.chance is None:
            return self._show_as_it_is(draw)
        return self._augmentation.show(self._records[draw.index], self._choose, self._resize, draw.chance)

    def _show_as_it_is(self, draw: Draw) -> ShownClip:
        record = self._records[draw.index]
        return ShownClip(record, self._choose(record), self._resize)


def describe_sample(record: Record, frame_ids: tuple[int, ...], degradation: Degradation | None) -> ClipInfo:
    """A sample without its pixels."""
    return ClipInfo(
        item_id=record.item_id,
        query=record.query,
        sentence_type=record.sentence_type,
        quality=Quality.HQ if degradation is None else Quality.LQ,
        degradation=degradation,
        frame_ids=frame_ids,
        target=record.target,
        native_size=record.size,
        native_length=record.num_frames,
        fps=record.fps,
        video=str(record.video),
    )


def _sample_target(info: ClipInfo) -> tuple[Tensor, Tensor]:
    """The true boxes (T, 4) cxcywh in units of the frame, zeros where none counts, and which frames they cover (T,)."""
    ids = torch.tensor(info.frame_ids)
    inside = (ids >= info.target.start) & (ids < info.target.stop)
    boxes = torch.zeros(len(ids), 4)
    height, width = info.native_size
    true = info.target.boxes[ids[inside] - info.target.start].float()
    # NaN would enter the gradient even of a loss that leaves the frame out.
    boxes[inside] = (xyxy_to_cxcywh(true) / torch.tensor((width, height, width, height))).nan_to_num(0.0)
    return boxes, inside


def collate(clips: Sequence[Clip]) -> Batch:
    """Pads clips of different lengths and sizes to one batch."""
    extra = [other for clip in clips for other in clip.extra]
    return Batch(
        clips=tuple(clip.info for clip in clips),
        **_collate_pictures(clips),
        boxes=_pad([clip.boxes for clip in clips]),
        inside=_pad([clip.inside for clip in clips]),
        qualities=torch.tensor([int(clip.info.quality) for clip in clips]),
        twins=collate(twins) if (twins := [clip.twin for clip in clips if clip.twin is not None]) else None,
        extra=_collate_qualities(extra) if extra else None,
    )


def _collate_qualities(clips: Sequence[QualityClip]) -> QualityBatch:
    qualities = torch.tensor([int(clip.quality) for clip in clips])
    return QualityBatch(**_collate_pictures(clips), qualities=qualities)


class _Pictures(TypedDict):
    """What the network is shown of a batch, as fields of :class:`stvg_nst.types.Batch`."""

    frames: Tensor | None
    features: BackboneFeatures | None
    frame_mask: Tensor
    frame_sizes: tuple[tuple[int, int], ...]


def _collate_pictures(clips: Sequence[Clip] | Sequence[QualityClip]) -> _Pictures:
    pixels = [clip.frames for clip in clips if clip.frames is not None]
    cached = [clip.features for clip in clips if clip.features is not None]
    features = None
    if cached:
        maps = (_pad([clip[0] for clip in each]) for each in zip(*(x.maps for x in cached), strict=True))
        features = BackboneFeatures.of(*maps, cell_mask=_pad([x.cell_mask[0] for x in cached]))
    lengths = torch.tensor([len(x) for x in pixels] or [x.appearance.shape[1] for x in cached])
    return {
        "frames": _pad_frames(pixels) if pixels else None,
        "features": features,
        "frame_mask": torch.arange(int(lengths.max()))[None] < lengths[:, None],
        "frame_sizes": tuple((x.shape[-2], x.shape[-1]) for x in pixels),
    }


def _pad_frames(clips: Sequence[Tensor]) -> Tensor:
    """(T, 3, H, W) each; those in bytes keep their colours side by side in memory, as they come out of a video."""
    if clips[0].dtype != torch.uint8:
        return _pad(clips)
    return _pad([clip.permute(0, 2, 3, 1) for clip in clips]).permute(0, 1, 4, 2, 3)


def _pad(tensors: Sequence[Tensor]) -> Tensor:
    """Stacks tensors of one rank, padded with zeros (False) at the end of every axis."""
    if len({x.shape for x in tensors}) == 1:
        return torch.stack(list(tensors))
    shape = [max(sizes) for sizes in zip(*(x.shape for x in tensors), strict=True)]
    padded = tensors[0].new_zeros((len(tensors), *shape))
    for target, source in zip(padded, tensors, strict=True):
        target[tuple(slice(size) for size in source.shape)] = source
    return padded


def limit_threads(worker: int) -> None:
    """Loader processes are parallel already; threads within them only contend."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def start_worker(worker: int) -> None:
    """What a loader process does first: it works with one thread, and outlives what ends the training.

    `timeout`, SLURM and others send SIGTERM or SIGUSR1 to every process of a command. The training goes on to the end
    of its step then, and needs its batches; it ends its loader processes itself. Where the system does not say who sent
    a signal, as macOS, the process ends by the first one.
    """
    limit_threads(worker)
    if sys.platform == "darwin":
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    assert sys.platform != "darwin", "it has no sigwaitinfo"
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
