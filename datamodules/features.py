"""A cache of frozen backbone features on disk: what the visual encoders say of each clip in each cached quality."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.array_store import ArrayStore, ArrayWriter, CacheKind
from stvg_nst.types import BackboneFeatures, Degradation

# Half precision: half the bytes, and a relative error of at most 5e-4.
_FEATURES = CacheKind("feature cache", "features.bin", "<f2", "python -m stvg_nst cache", "features")


def feature_key(clip_id: str, degradation: Degradation | None) -> str:
    """Names one version of a clip's pixels."""
    version = "HQ" if degradation is None else f"{degradation}:{degradation.seed}"
    return f"{clip_id}|{version}"


class FeatureWriter(ArrayWriter):
    """Writes a cache of features, whole or not at all.

    Args:
        folder: where the cache will stand; it must not exist.
        provenance: what the pixels depend on; a reader must ask for the same.
        backbones: fingerprint of the encoders.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any], backbones: str) -> None:
        super().__init__(_FEATURES, folder, provenance, backbones=backbones)

    def add_features(self, key: str, appearance: Tensor, motion: Tensor) -> None:
        """Appends (T, C_a, h, w) and (T, C_m, h, w)."""
        self.add(key, [x.detach().to("cpu", torch.float16).numpy() for x in (appearance, motion)])


class FeatureCache:
    """Reads features by key.

    Args:
        folder: written by :class:`FeatureWriter`.
        provenance: what the caller expects the pixels to depend on.

    Raises:
        CacheError: the cache is absent, incomplete or has another provenance.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._arrays = ArrayStore(_FEATURES, folder, provenance)
        self.backbones: str = self._arrays.header["backbones"]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def __len__(self) -> int:
        return len(self._arrays)

    def require(self, keys: Iterable[str]) -> None:
        """Refuse, before any work is done, a cache that lacks some of ``keys``.

        Raises:
            CacheError: it does.
        """
        self._arrays.require(keys)

    def read(self, key: str) -> BackboneFeatures:
        """Float32 features with B = 1.

        Raises:
            CacheError: the key is absent, or its bytes do not match their checksum.
        """
        appearance, motion = (torch.from_numpy(x.astype(np.float32))[None] for x in self._arrays.read(key))
        return BackboneFeatures(appearance, motion, torch.ones(1, *appearance.shape[-2:], dtype=torch.bool))
