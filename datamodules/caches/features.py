"""A cache of frozen backbone features on disk: what the visual encoders say of each clip in each cached quality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.caches.array_store import ArrayStore, ArrayWriter, CacheError, CacheKind
from datamodules.caches.frames import FramesOfClip
from datamodules.degradation.golden_pixels import PixelOrigin
from datamodules.video import video_sizes
from stvg_nst.machine.disk_room import check_room
from stvg_nst.types import BackboneFeatures, Batch, Degradation

# Half precision: half the bytes, and a relative error of at most 5e-4.
_FEATURES = CacheKind("feature cache", "features.bin", "<f2", "python -m stvg_nst cache features", "features")


def feature_key(clip_id: str, degradation: Degradation | None) -> str:
    """Names one version of a clip's pixels."""
    version = "HQ" if degradation is None else f"{degradation}:{degradation.seed}"
    return f"{clip_id}|{version}"


@dataclass(frozen=True, slots=True)
class ClipVersion:
    """A clip in one quality, whose features a cache holds.

    Args:
        key: see :func:`feature_key`.
        clip: whose T frames they are of.
        video_bytes: size of the video that the frames come from.
    """

    key: str
    clip: FramesOfClip
    video_bytes: int


class FeatureWriter(ArrayWriter):
    """Writes a cache of features, whole or not at all.

    Args:
        folder: of the cache; it must not exist.
        provenance: what the pixels depend on; a reader must ask for the same.
        backbones: fingerprint of the encoders.
        origin: of the degraded pixels.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any], backbones: str, origin: PixelOrigin) -> None:
        super().__init__(_FEATURES, folder, provenance, backbones=backbones, origin=asdict(origin))

    def add_features(self, version: ClipVersion, *maps: Tensor) -> None:
        """Appends (T, C_a, h, w), and (T, C_m, h, w) where there is a video encoder, and notes what they are of.

        Raises:
            ValueError: a value is not finite, or too large for half precision.
        """
        arrays = [x.detach().to("cpu", torch.float16).numpy() for x in maps]
        clip = version.clip
        if not all(np.isfinite(array).all() for array in arrays):
            largest = max(x.abs().max().item() for x in maps)
            raise ValueError(
                f"the features of '{clip.clip_id}' must lie within {torch.finfo(torch.float16).max:g}, as half "
                f"precision has it, got {largest:g}; set --data.init_args.features null to do without a cache"
            )
        self.add(version.key, arrays, frame_ids=clip.frame_ids, size=clip.size, video_bytes=version.video_bytes)


def write_features(
    writer: FeatureWriter,
    folder: Path,
    versions: Sequence[ClipVersion],
    batches: Iterable[Batch],
    encode: Callable[[Batch], BackboneFeatures],
    *,
    progress: Callable[[int, int, int], None],
) -> None:
    """Encodes clips and stores their features without padding.

    Args:
        writer: of the cache.
        folder: of the cache, whose disk needs room.
        versions: what is stored, in the order of the batches.
        batches: their frames.
        encode: the frozen visual encoders.
        progress: called with the numbers of versions that are stored and of all, and the bytes that all take if they
            are like the first.

    Raises:
        OSError: there is not room enough, which is known as soon as the first version is encoded.
    """
    num_bytes = 0
    for batch in batches:
        features = encode(batch)
        for row, info in enumerate(batch.clips):
            length = len(info.frame_ids)
            maps = [x[0] for x in features.unpadded(row, length).maps]
            if not num_bytes:
                cells = sum(x.numel() for x in maps)
                num_bytes = len(versions) * np.dtype(_FEATURES.dtype).itemsize * cells
                check_room(num_bytes, folder)
            writer.add_features(versions[len(writer)], *maps)
            progress(len(writer), len(versions), num_bytes)


class FeatureCache:
    """Reads features by key.

    Args:
        folder: written by :class:`FeatureWriter`.
        provenance: what the caller expects the pixels to depend on.

    Attributes:
        backbones: fingerprint of the encoders.
        origin: of the degraded pixels, its hashes ``None`` in a cache from before they were noted.

    Raises:
        CacheError: the cache is absent, incomplete or has another provenance.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder = folder
        self._arrays = ArrayStore(_FEATURES, folder, provenance)
        self.backbones: str = self._arrays.header["backbones"]
        noted = self._arrays.header.get("origin")
        self.origin = (
            PixelOrigin("cached features", None)
            if noted is None
            else PixelOrigin(f"cached features, {noted['source']}", noted["hashes"])
        )

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def largest_version_bytes(self) -> int:
        """On disk, of the version of a clip that takes most."""
        return self._arrays.largest_row_bytes

    def require(self, clips: Mapping[str, FramesOfClip], *, need_notes: bool) -> None:
        """Refuse an unsuitable cache before any work is done.

        Args:
            clips: what is shown, by key.
            need_notes: refuse features that do not record their frames and video, as older caches do not.

        Raises:
            CacheError: a key is absent, or its features are of other frames, of a video that has changed since, or do
                not say of which.
        """
        self._arrays.require(clips)
        sizes = video_sizes(clip.video for clip in clips.values())
        for key, clip in clips.items():
            note = self._arrays.rows[key]
            if "video_bytes" in note:
                what = clip.unlike(note, sizes[clip.video])
            else:
                what = "features, of an unknown video," if need_notes else None
            if what is not None:
                raise CacheError(
                    f"the {_FEATURES.name} '{self._folder}' has {what} of '{clip.clip_id}'; "
                    f"{_FEATURES.remedy(self._folder)}"
                )

    def read(self, key: str) -> BackboneFeatures:
        """Float32 features with B = 1.

        Raises:
            CacheError: the key is absent, or its bytes do not match their checksum.
        """
        maps = [torch.from_numpy(x.astype(np.float32))[None] for x in self._arrays.read(key)]
        return BackboneFeatures.of(*maps, cell_mask=torch.ones(1, *maps[0].shape[-2:], dtype=torch.bool))
