"""Whether the degradation pipeline makes the pixels of its version on this machine, told by hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from datamodules.degradation.severities import DEGRADATIONS, SEVERITIES, degrade
from stvg_nst.types import Degradation

# SHA-256 of the probe under all severities of each kind, as D-1.0 has made it since its first day. Processors without
# AVX2 round some blurred pixels otherwise by a grey level, and so may other releases of OpenCV by more.
GOLDEN_HASHES: dict[str, str] = {
    "motion_blur": "9f1cdafb4a881d37f4998faf82aaf8d83880ea457390ecd4725801cbb0333fe9",
    "defocus": "12bf062e976fe8b84d836491a5d4c92683c5f9de6bb05431a6a56d9b3debcac7",
    "low_light": "9190f8af826e1d085b26cde810da1ef3419af81e9fc796143253d7e1df224427",
    "resolution": "5f7b142f586507750a16716b35d1136d1e0d6f169b72455ed5055452f50c3f0d",
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
        return None if self.hashes is None else self.hashes == GOLDEN_HASHES


def pixel_hashes() -> dict[str, str]:
    """SHA-256 of what each kind makes of one and the same frame, at all severities; takes a few milliseconds."""
    frame = probe_frame()[None]
    hashes: dict[str, str] = {}
    for kind in DEGRADATIONS:
        digest = hashlib.sha256()
        for severity in SEVERITIES:
            digest.update(degrade(frame, Degradation(kind, severity, seed=severity)).tobytes())
        hashes[kind] = digest.hexdigest()
    return hashes


def probe_frame() -> np.ndarray:
    """uint8 (240, 320, 3): waves of all lengths and hard edges, in integers so that every machine draws the same."""
    y, x = np.mgrid[:240, :320]
    chirps = np.stack([x * x // 64 + y, y * y // 32 - x, x * y // 64], axis=2)
    chirps[60:180, 80:160] += 128
    return (chirps % 256).astype(np.uint8)
