"""A cache of frozen backbone features on disk: what the visual encoders say of each clip in each cached quality."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stvg_nst.types import BackboneFeatures, Degradation

_INDEX = "index.json"
_DATA = "features.bin"
_SCHEMA = 1


class FeatureCacheError(RuntimeError):
    """A feature cache that is absent, damaged, or made from something else than what is asked of it."""


def feature_key(clip_id: str, degradation: Degradation | None) -> str:
    """Names one version of a clip's pixels."""
    version = "HQ" if degradation is None else f"{degradation}:{degradation.seed}"
    return f"{clip_id}|{version}"


class FeatureWriter:
    """Writes a cache into a temporary folder that takes its final name when all has been written.

    Features are stored in half precision: half the bytes, and a relative error of at most 5e-4.

    Args:
        folder: where the cache will stand; it must not exist.
        provenance: what the pixels depend on; a reader must ask for the same.
        backbones: fingerprint of the encoders.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any], backbones: str) -> None:
        self._folder = folder
        self._backbones = backbones
        self._provenance = dict(provenance)
        self._rows: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> FeatureWriter:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{self._folder.name}.", dir=self._folder.parent))
        self._data = open(self._temporary / _DATA, "wb")
        return self

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, key: str, appearance: Tensor, motion: Tensor) -> None:
        """Appends (T, C_a, h, w) and (T, C_m, h, w)."""
        if key in self._rows:
            raise ValueError(f"'{key}' is in the cache already; each version of a clip is written once")
        arrays = [x.detach().to("cpu", torch.float16).contiguous().numpy() for x in (appearance, motion)]
        data = b"".join(array.tobytes() for array in arrays)
        self._rows[key] = {
            "offset": self._data.tell(),
            "shapes": [list(array.shape) for array in arrays],
            "crc32": zlib.crc32(data),
        }
        self._data.write(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()
        if kind is not None:
            shutil.rmtree(self._temporary)
            return
        index = {
            "schema": _SCHEMA,
            "provenance": self._provenance,
            "backbones": self._backbones,
            "rows": self._rows,
        }
        (self._temporary / _INDEX).write_text(json.dumps(index))
        os.replace(self._temporary, self._folder)


class FeatureCache:
    """Reads features by key, memory-mapped, each read checked against its checksum.

    Args:
        folder: written by :class:`FeatureWriter`.
        provenance: what the caller expects the pixels to depend on.

    Raises:
        FeatureCacheError: the cache is absent, incomplete or has another provenance.
    """

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder = folder
        remedy = f"delete '{folder}' and build it again with `python -m stvg_nst cache`"
        if not (folder / _INDEX).is_file():
            raise FeatureCacheError(f"no feature cache in '{folder}': build it with `python -m stvg_nst cache`")
        try:
            index = json.loads((folder / _INDEX).read_text())
            self._rows: dict[str, dict[str, Any]] = index["rows"]
            self.backbones: str = index["backbones"]
            # How many versions a cache holds is no condition of their making; `require` asks for those it needs.
            found = {name: value for name, value in index["provenance"].items() if name != "versions"}
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
            raise FeatureCacheError(f"'{folder / _INDEX}' is damaged ({error!r}); {remedy}") from error
        expected = json.loads(json.dumps(dict(provenance)))
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                raise FeatureCacheError(
                    f"the feature cache in '{folder}' was built with {name} = {found.get(name)!r}, but this run has "
                    f"{expected.get(name)!r}; {remedy}, or set --data.init_args.features null to do without"
                )
        size = sum(2 * int(np.prod(shape)) for row in self._rows.values() for shape in row["shapes"])
        actual = (folder / _DATA).stat().st_size if (folder / _DATA).is_file() else 0
        if actual != size:
            raise FeatureCacheError(f"'{folder / _DATA}' must have {size} bytes, got {actual}; {remedy}")
        self._remedy = remedy
        self._data = np.memmap(folder / _DATA, dtype=np.uint8, mode="r")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def require(self, keys: Iterable[str]) -> None:
        """Refuse, before any work is done, a cache that lacks some of ``keys``.

        Raises:
            FeatureCacheError: it does.
        """
        lacking = [key for key in keys if key not in self._rows]
        if lacking:
            raise FeatureCacheError(
                f"the feature cache in '{self._folder}' holds {len(self)} versions of clips, but lacks {len(lacking)} "
                f"that this run shows, the first being '{lacking[0]}'; {self._remedy}"
            )

    def read(self, key: str) -> BackboneFeatures:
        """Float32 features with B = 1.

        Raises:
            FeatureCacheError: the key is absent, or its bytes do not match their checksum.
        """
        if key not in self._rows:
            raise FeatureCacheError(f"'{key}' is not in the feature cache '{self._folder}'; {self._remedy}")
        row = self._rows[key]
        counts = [int(np.prod(shape)) for shape in row["shapes"]]
        data = self._data[row["offset"] : row["offset"] + 2 * sum(counts)]
        if zlib.crc32(data.tobytes()) != row["crc32"]:
            raise FeatureCacheError(f"the bytes of '{key}' in '{self._folder}' are damaged; {self._remedy}")
        values = torch.from_numpy(data.view(np.float16).astype(np.float32))
        appearance, motion = (
            part.view(1, *shape) for part, shape in zip(values.split(counts), row["shapes"], strict=True)
        )
        return BackboneFeatures(appearance, motion, torch.ones(1, *appearance.shape[-2:], dtype=torch.bool))
