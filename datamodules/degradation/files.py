"""Degraded copies of a data set's clips as files: what their manifest says, and their frames."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from datamodules.caches.array_store import CacheError
from datamodules.degradation.kinds import version_name
from datamodules.video import read_frames, video_sizes
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.types import Degradation, Kernels

LOSSLESS = "lossless"
_MANIFEST = "degraded.json"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class DegradedClip:
    """The file of one degraded clip.

    Args:
        path: relative to the folder.
        kind, severity, seed: the degradation.
        first_frame: of the source video, that the file begins with.
        num_frames, fps, size: of its stream, the size as (H, W).
        num_bytes, sha256: of the file.
        source_bytes: size of the video that it was made from.
    """

    path: str
    kind: str
    severity: int
    seed: int
    first_frame: int
    num_frames: int
    fps: float
    size: tuple[int, int]
    num_bytes: int
    sha256: str
    source_bytes: int


@dataclass(frozen=True, slots=True)
class DegradedManifest:
    """What a folder of degraded clips was made from.

    Args:
        dataset: its name.
        degradations: the version of the pipeline, such as ``D-1.0``.
        benchmark_seed: that fixed every clip's degradation.
        encoding: ``lossless``, or the codec and its quality.
        pixels: hashes of what the pipeline made of a probe frame on the machine that wrote the files.
    """

    dataset: str
    degradations: str
    benchmark_seed: int
    encoding: str
    pixels: Mapping[str, str]


def read_manifest(folder: Path) -> tuple[DegradedManifest, dict[str, DegradedClip]]:
    """What the folder was made from, and its files by clip.

    Raises:
        CacheError: there is no manifest, or it is damaged.
    """
    file = folder / _MANIFEST
    if not file.is_file():
        raise CacheError(
            f"there is no '{file}': `python -m stvg_nst degrade dataset` writes it beside the degraded clips"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {_SCHEMA}")
        manifest = DegradedManifest(**{field.name: content[field.name] for field in fields(DegradedManifest)})
        clips = {name: DegradedClip(**{**clip, "size": tuple(clip["size"])}) for name, clip in content["clips"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CacheError(
            f"'{file}' is damaged ({error!r}); delete the folder, and degrade the data set again"
        ) from error
    return manifest, clips


def write_manifest(folder: Path, manifest: DegradedManifest, clips: Mapping[str, DegradedClip]) -> None:
    """Writes the manifest whole or not at all."""
    content = {"schema": _SCHEMA, **asdict(manifest), "clips": {name: asdict(clips[name]) for name in sorted(clips)}}
    write_whole(folder / _MANIFEST, json.dumps(content, indent=1) + "\n")


class DegradedFiles:
    """Degraded clips in a folder that ``degrade dataset`` wrote.

    Args:
        folder: the folder.

    Raises:
        CacheError: it has no manifest, or a damaged one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self.manifest, self._clips = read_manifest(self._folder)

    @property
    def lossless(self) -> bool:
        """Whether the files have the very pixels that degrading on the fly makes."""
        return self.manifest.encoding == LOSSLESS

    def source_bytes(self, clip_id: str) -> int:
        """Size of the video that a clip, which must be there, was made from."""
        return self._clips[clip_id].source_bytes

    def check(self, dataset: str, benchmark_seed: int, kernels: Kernels, videos: Mapping[str, Path]) -> None:
        """Refuses what are not the LQ clips of this benchmark, or not all of them.

        Args:
            videos: by clip, the video that its file must be made from; it may be gone.

        Raises:
            CacheError: they are of another benchmark, of another video, or some are missing.
        """
        found = (self.manifest.dataset, self.manifest.degradations, self.manifest.benchmark_seed)
        expected = (dataset, version_name(kernels), benchmark_seed)
        if found != expected:
            raise CacheError(
                f"the degraded clips in '{self._folder}' are of {found} (data set, version, benchmark seed), but this "
                f"run has {expected}; set --data.init_args.degraded null to degrade on the fly"
            )
        missing = [clip_id for clip_id in videos if clip_id not in self._clips]
        if missing:
            raise CacheError(
                f"{len(missing):,} clips are not in '{self._folder}', the first '{missing[0]}': go on with `python -m "
                f"stvg_nst degrade dataset {dataset} ROOT {self._folder}`"
            )
        sizes = video_sizes(videos.values())
        for clip_id, video in videos.items():
            expected_bytes = self.source_bytes(clip_id)
            if sizes[video] not in (None, expected_bytes):
                raise CacheError(
                    f"'{clip_id}' in '{self._folder}' was made from a video of {expected_bytes:,} bytes, but "
                    f"'{video}' has {sizes[video]:,}: run `python -m stvg_nst degrade dataset {dataset} ROOT "
                    f"{self._folder}` again, which replaces what has changed"
                )

    def read(
        self, clip_id: str, frame_ids: Sequence[int], degradation: Degradation, size: tuple[int, int]
    ) -> np.ndarray:
        """Chosen frames of a clip, uint8 (T, H, W, 3).

        Args:
            frame_ids: T native indices in the source video.
            degradation: that the clip must have.
            size: (H, W) that it must have.

        Raises:
            CacheError: the clip has another degradation, or its file has changed.
            VideoDecodeError: its file cannot be read.
        """
        clip = self._clips[clip_id]
        file = self._folder / clip.path
        found = Degradation(clip.kind, clip.severity, clip.seed, degradation.kernels)
        if found != degradation:
            raise CacheError(f"'{file}' was made by {found!r}, expected {degradation!r}; degrade the data set anew")
        if file.is_file() and file.stat().st_size != clip.num_bytes:
            raise CacheError(
                f"'{file}' must have {clip.num_bytes} bytes, got {file.stat().st_size}; delete it and degrade it again"
            )
        return read_frames(file, [frame_id - clip.first_frame for frame_id in frame_ids], expected_size=size)
