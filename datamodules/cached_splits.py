"""What the samples of a split are read from: videos, and caches of their frames or features."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from datamodules.caches.array_store import CacheError
from datamodules.caches.features import ClipVersion, FeatureCache, FeatureWriter, feature_key, write_features
from datamodules.caches.frames import FrameCache, FramesOfClip, write_frames
from datamodules.clips import ClipDataset, collate, describe_sample
from datamodules.loaders import load_batches
from datamodules.on_device import finish_on_device
from datamodules.pixels import PixelSource
from datamodules.quality import HIGH, Draw, conditions_name
from datamodules.records import Record
from datamodules.splits import Split, SplitsOfClips
from datamodules.transforms import Resize, Resizing
from stvg_nst.results.conditions import MIXED
from stvg_nst.types import BackboneFeatures, Batch, ClipInfo, Quality

_CPU = torch.device("cpu")
# File systems take names of 255 bytes, and the writer puts 34 around that of a cache.
_LONGEST_NAME = 221

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class CachedSplits(SplitsOfClips):
    """The middle part of a data module: opens what the samples of a split are read from, and builds its caches."""

    renders_videos: ClassVar[bool] = False
    """Whether the version in the provenance fixes the videos, because they are rendered by it."""

    _: KW_ONLY

    features: Path | None = None
    """folder of a cache of frozen backbone features, or ``null`` to decode and encode every time."""

    frames: Path | None = None
    """folder of a cache of decoded frames (``cache frames``), or ``null`` to decode every time."""

    eval_batch_size: int = 16
    """clips of a validation or test batch on each device."""

    num_workers: int = 2
    """loader processes; 0 loads in the main process, as are small cached features whatever it says."""

    finish_on: Literal["auto", "loader", "device"] = "auto"
    """where frames become what the network takes, resized and in floats: in the loader's processes, or on the device of
    the network, to which they then travel as bytes. ``auto`` is the device, unless that is the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.features is not None and self.mixed and self.variants is None:
            raise ValueError(
                "a feature cache holds a fixed number of degraded variants a clip: set --data.init_args.variants, "
                "or --data.init_args.features null to degrade anew every time"
            )
        self.require_at_least("eval_batch_size", 1)
        self.require_at_least("num_workers", 0)
        self.caches: dict[Split, FeatureCache | None] = {}
        self.sources: dict[Split, PixelSource] = {}

    def resize(self) -> Resizing | None:
        """How frames are brought to the network's size, ``None`` to show them as they are."""
        return None

    def _open(self, split: Split) -> None:
        """Opens what the samples of a split are read from."""
        self.caches[split] = None if self.features is None else self.open_cache(split)
        self.sources[split] = self.pixel_source(split)

    def pixel_source(self, split: Split) -> PixelSource:
        """Where the frames of a split that is set up are read from.

        Raises:
            CacheError: the cache of frames, or the folder of degraded videos, is of something else or not complete.
        """
        frames = None if self.frames is None else self.open_frames(split)
        if frames is not None:
            frames.require(self.frames_of_clips(split))
        # Training draws its degradations anew, so that no files have them.
        degraded = None if split == "train" else self.degraded_files
        if degraded is not None:
            videos = {record.clip_id: record.video for record in self.records[split]}
            degraded.check(self.provenance()["dataset"], self.plan.benchmark_seed, self.plan.kernels, videos)
        return PixelSource(frames, degraded)

    def _source(self, split: Split) -> PixelSource:
        """Of a split that is set up; opened now where samples of it are looked at, and no loader was asked for."""
        if split not in self.sources:
            self.sources[split] = self.pixel_source(split)
        return self.sources[split]

    def degradations(self) -> dict[str, Any]:
        """What made the LQ clips, to the last pixel: version, seed, where they came from, and hashes of the pixels.

        Where features are cached, what ``test`` measures on must be set up. What an older cache does not say is
        ``None``.
        """
        version = self.degradation_version(self.evaluation_split)
        if self.features is None:
            origin = PixelSource(degraded=self.degraded_files).origin(unseen=self._shows_unseen(self.evaluation_split))
        else:
            cache = self.caches[self.evaluation_split]
            assert cache is not None
            origin = cache.origin
        if origin.golden is False:
            _log.warning(
                "the pixels of the degradations are not the golden ones of %s: another processor, or another release "
                "of OpenCV, rounds differently; numbers may differ a little from those of others",
                version,
            )
        return {
            "version": version,
            "benchmark_seed": self.plan.benchmark_seed,
            "source": origin.source,
            "pixels": origin.hashes,
            "golden": origin.golden,
        }

    # --- the cache of frozen features --------------------------------------------------------------------------------

    def cache_folder(self, split: Split) -> Path:
        """The folder of a split. Another draw of the benchmark, or other conditions, have folders of their own."""
        if self.features is None:
            raise ValueError("no folder for cached features is set: give --data.init_args.features FOLDER")
        draw, shown = self.plan.benchmark_seed, MIXED
        if split != "train":
            shown = conditions_name(self.shown_conditions(split))
        parts = [split, *[f"benchmark{draw}"] * (draw != 0), *[shown.replace(":", "")] * (shown != MIXED)]
        name = "-".join(parts)
        if len(name) > _LONGEST_NAME:
            name = "-".join([*parts[:-1], f"conditions{hashlib.sha256(shown.encode()).hexdigest()[:16]}"])
        return self.features / name

    def cache_provenance(self, split: Split) -> dict[str, Any]:
        return {**self.provenance(), "split": split, "degradations": self.degradation_version(split)}

    def open_cache(self, split: Split) -> FeatureCache:
        """The cache of the split, which may hold more clips than are shown: a smaller run reads from a larger one's."""
        cache = FeatureCache(self.cache_folder(split), self.cache_provenance(split))
        records = self._loaded_records(split)
        shown = ((records[version.index], version.degradation) for version in self.versions(split))
        clips = {feature_key(record.clip_id, made): self._frames_of(split, record) for record, made in shown}
        cache.require(clips, need_notes=not self.renders_videos)
        return cache

    @property
    def cached_backbones(self) -> str | None:
        """Fingerprint of the backbones that made the cached features, ``None`` where nothing is cached."""
        fingerprints = {cache.backbones for cache in self.caches.values() if cache is not None}
        if len(fingerprints) > 1:
            raise CacheError(f"the caches in '{self.features}' were made by different backbones; build them again")
        return fingerprints.pop() if fingerprints else None

    def versions(self, split: Split) -> tuple[Draw, ...]:
        """Every version of every clip that a cache of the split must hold, once each."""
        versions = []
        first = {record.clip_id: index for index, record in reversed(list(enumerate(self._loaded_records(split))))}
        for clip_id, index in sorted(first.items(), key=lambda item: item[1]):
            if split != "train":
                conditions = self.shown_conditions(split)
                versions += [Draw(index, self.plan.degradation_in(condition, clip_id)) for condition in conditions]
                continue
            versions.append(Draw(index, None))
            if self.plan.mixed:
                versions += [Draw(index, variant) for variant in self.plan.trained_variants(clip_id)]
        return tuple(versions)

    def build_cache(
        self,
        split: Split,
        encode: Callable[[Batch], BackboneFeatures],
        backbones: str,
        progress: Callable[[int, int, int], None] = lambda done, total, num_bytes: None,
        *,
        device: torch.device = _CPU,
    ) -> Path:
        """Encodes every version of the split's clips, as :func:`datamodules.caches.features.write_features` says.

        A cache that exists already and was made from the same is kept. One that is not finished is begun anew.

        Args:
            encode: is given batches on the device.
            backbones: fingerprint of what encodes.
            progress: as there.
            device: of what encodes.

        Returns:
            The cache's folder.

        Raises:
            CacheError: one exists already, but was made from something else.
            OSError: there is not room enough.
        """
        self.setup_split(split)
        folder = self.cache_folder(split)
        if folder.exists():
            if self.open_cache(split).backbones == backbones:
                return folder
            raise CacheError(f"'{folder}' was made by other backbones; delete it, or choose another folder")
        draws, source, records = self.versions(split), self.pixel_source(split), self._loaded_records(split)
        finished = not self._finishes_on(device)
        dataset = ClipDataset(records, self.frame_choice(split), self.resize(), source, None, finished=finished)
        loader = load_batches(
            dataset,
            collate,
            batch_size=self.eval_batch_size,
            sampler=draws,
            num_workers=self.num_workers,
            batch_bytes=dataset.batch_bytes(draws[: self.eval_batch_size]),
        )
        versions = [
            ClipVersion(
                feature_key(record.clip_id, draw.degradation),
                self._frames_of(split, record),
                source.video_bytes(record),
            )
            for record, draw in ((records[draw.index], draw) for draw in draws)
        ]
        origin = source.origin(unseen=self._shows_unseen(split))
        with FeatureWriter(folder, self.cache_provenance(split), backbones, origin) as writer:
            write_features(
                writer,
                folder,
                versions,
                loader,
                lambda batch: encode(self.on_after_batch_transfer(batch.to(device), 0)),
                progress=progress,
            )
        return folder

    def _finishes_on(self, device: torch.device) -> bool:
        return self.finish_on == "device" or (self.finish_on == "auto" and device.type != "cpu")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        resize = self.resize()
        return finish_on_device(batch, resize if isinstance(resize, Resize) else None)

    # --- the cache of decoded frames ---------------------------------------------------------------------------------

    def frames_folder(self, split: Split) -> Path:
        if self.frames is None:
            raise ValueError("no folder for decoded frames is set: give --data.init_args.frames FOLDER")
        return self.frames / split

    def frames_provenance(self, split: Split) -> dict[str, Any]:
        """What the clean frames of a split depend on besides the names of the clips; no seed is part of it."""
        provenance = self.provenance()
        names = [name for name in ("dataset", "version") if name in provenance]
        return {"frames": repr(self.frame_choice(split)), **{name: provenance[name] for name in names}}

    def open_frames(self, split: Split) -> FrameCache:
        return FrameCache(self.frames_folder(split), self.frames_provenance(split))

    def frames_of_clips(self, split: Split) -> tuple[FramesOfClip, ...]:
        """What a cache of the split must hold, each clip once."""
        clips = {record.clip_id: record for record in self._loaded_records(split)}
        return tuple(self._frames_of(split, record) for record in clips.values())

    def _frames_of(self, split: Split, record: Record) -> FramesOfClip:
        return FramesOfClip(record.clip_id, record.video, self.frame_choice(split)(record), record.size)

    def build_frames(
        self, split: Split, clips: Sequence[FramesOfClip], *, workers: int, progress: Callable[[int], None]
    ) -> None:
        """Decodes clips of a split into its cache, as :func:`datamodules.caches.frames.write_frames` says."""
        folder, provenance = self.frames_folder(split), self.frames_provenance(split)
        write_frames(folder, provenance, clips, workers=workers, progress=progress)

    # --- samples to look at ------------------------------------------------------------------------------------------

    def pixels(self, info: ClipInfo) -> np.ndarray:
        """The sampled native frames of a clip in its own quality, uint8 (T, H, W, 3): what the network was shown."""
        for split, records in self.records.items():
            for record in records:
                # By the video too: splits whose annotations are a person's own may use a name again.
                if (record.item_id, str(record.video)) == (info.item_id, info.video):
                    return self._source(split).read(record, info.frame_ids, info.degradation)
        raise ValueError(f"item '{info.item_id}' is in none of the splits that are set up: {', '.join(self.records)}")

    def sample(self, item_id: str, quality: Quality) -> ClipInfo:
        """One sample of what ``test`` measures on, to look at.

        A low quality is the one that the benchmark draws for the clip. Where that is not shown, it is the first shown.

        Raises:
            ValueError: the split has no such item, or is not shown in that quality.
        """
        split = self.evaluation_split
        if split not in self.records:
            self.setup_split(split)
        record = next((record for record in self.records[split] if record.item_id == item_id), None)
        if record is None:
            raise ValueError(f"the {split} split of {type(self).__name__} has no item '{item_id}'")
        shown = self.shown_conditions(split)
        fitting = [condition for condition in shown if (condition == HIGH) is (quality is Quality.HQ)]
        if not fitting:
            raise ValueError(f"the {split} split is shown in {', '.join(shown)}, and not in {quality.name}")
        drawn = str(self.plan.evaluation_degradation(record.clip_id))
        condition = drawn if drawn in fitting else fitting[0]
        degradation = self.plan.degradation_in(condition, record.clip_id)
        return describe_sample(record, self.frame_choice(split)(record), degradation)
