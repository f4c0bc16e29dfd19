"""Whether the degradation pipeline makes the pixels of its version on this machine, told by hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from datamodules.degradation.kinds import DEGRADATIONS, SEVERITIES, UNSEEN
from datamodules.degradation.severities import degrade
from datamodules.degradation.unseen import degrade_clip
from stvg_nst.types import Degradation

# SHA-256 of the probe under all severities of each kind, as D-1.0 and D-1.1 have made it since their first days.
# Processors without AVX2 round some blurred pixels otherwise by a grey level; other releases of OpenCV may by more.
GOLDEN_HASHES: dict[str, str] = {
    "motion_blur": "9f1cdafb4a881d37f4998faf82aaf8d83880ea457390ecd4725801cbb0333fe9",
    "defocus": "12bf062e976fe8b84d836491a5d4c92683c5f9de6bb05431a6a56d9b3debcac7",
    "low_light": "9190f8af826e1d085b26cde810da1ef3419af81e9fc796143253d7e1df224427",
    "resolution": "5f7b142f586507750a16716b35d1136d1e0d6f169b72455ed5055452f50c3f0d",
    "compression": "576cd2bbb1d0069dd591fad0c09994520fb7f22dbd76590028d73a1cb8a8020f",
    "noise": "d742fbc225b3b8ba42b5db9d981694844110609d93f9327d3084d8da923fb8a2",
    "partial": "ffbc455a50c4aeaa5403b80e8c7257e31ba072eb40c446219edd4c99165b7e6e",
}


@dataclass(frozen=True, slots=True)
class PixelOrigin:
    """Where degraded pixels come from.

    Args:
        source: in words, such as ``on the fly``.
        hashes: what :func:`pixel_hashes` says on the machine that made them; ``None`` where nobody has noted it.
    """

    source: str
    hashes: Mapping[str, str] | None

    @property
    def golden(self) -> bool | None:
        """Whether that machine makes the pixels of the version; ``None`` where it is not known."""
        return None if self.hashes is None else self.hashes.items() <= GOLDEN_HASHES.items()


def pixel_hashes(*, unseen: bool = False) -> dict[str, str]:
    """SHA-256 of what each kind of D-1.0 makes of one and the same frame, at all severities; takes a few milliseconds.

    Args:
        unseen: hash what the kinds of D-1.1 make of one and the same clip, too; a tenth of a second.
    """
    frame, clip = probe_frame()[None], probe_clip()
    hashes: dict[str, str] = {kind: _hash(kind, lambda draw: [degrade(frame, draw)]) for kind in DEGRADATIONS}
    if unseen:
        wanted = range(len(clip))
        hashes |= {kind: _hash(kind, lambda draw: degrade_clip(clip, len(clip), draw, wanted)) for kind in UNSEEN}
    return hashes


def _hash(kind: str, damaged: Callable[[Degradation], Iterable[np.ndarray]]) -> str:
    digest = hashlib.sha256()
    for severity in SEVERITIES:
        for frames in damaged(Degradation(kind, severity, seed=severity)):
            digest.update(frames.tobytes())
    return digest.hexdigest()


def probe_clip() -> np.ndarray:
    """uint8 (8, 120, 160, 3): a part of the probe's frame that moves."""
    frame = probe_frame()
    return np.stack([frame[4 * index :, 6 * index :][:120, :160] for index in range(8)])


def probe_frame() -> np.ndarray:
    """uint8 (240, 320, 3): waves of all lengths and hard edges, in integers so that every machine draws the same."""
    y, x = np.mgrid[:240, :320]
    chirps = np.stack([x * x // 64 + y, y * y // 32 - x, x * y // 64], axis=2)
    chirps[60:180, 80:160] += 128
    return (chirps % 256).astype(np.uint8)
