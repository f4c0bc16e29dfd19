"""The kinds of degradation by name, the versions of their pixels, and which of them a clip is drawn."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

from stvg_nst.seeding import derive_seed
from stvg_nst.types import Degradation, Kernels

DegradationKind = Literal["motion_blur", "defocus", "low_light", "resolution"]
DEGRADATIONS: tuple[DegradationKind, ...] = get_args(DegradationKind)
"""Of D-1.0: training, and the benchmark's own LQ clips, are drawn from these."""

UnseenKind = Literal["compression", "noise", "partial"]
UNSEEN: tuple[UnseenKind, ...] = get_args(UnseenKind)
"""What D-1.1 adds: no training draws them, and a test shows them where it is asked to."""

SEVERITIES = (1, 2, 3, 4, 5)

# Name the pixels of an LQ clip: a version goes up with any change of its tables or its arithmetic. New versions of
# OpenCV (blurs, resizing), NumPy (generator, rounding of powers), albumentations (how a seed becomes a draw) and, for
# compression, x264 can change pixels too.
DEGRADATION_VERSION = "D-1.0"
UNSEEN_VERSION = "D-1.1"


def check_degradation(kind: str, severity: int, *, kinds: Sequence[str] = (*DEGRADATIONS, *UNSEEN)) -> None:
    """Raises ValueError unless the kind is one of ``kinds``, and the severity is known."""
    if kind not in kinds:
        raise ValueError(f"kind must be one of {', '.join(kinds)}, got '{kind}'")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be one of {', '.join(map(str, SEVERITIES))}, got {severity}")


def version_name(kernels: Kernels, *, unseen: bool = False) -> str:
    """Names the pixels of an LQ clip in results and caches: ``D-1.0``, or ``D-1.0-absolute``.

    Args:
        unseen: some clips are shown in a kind that D-1.1 adds.
    """
    version = UNSEEN_VERSION if unseen else DEGRADATION_VERSION
    return version if kernels == "relative" else f"{version}-{kernels}"


def sample_degradation(*parts: str | int, kernels: Kernels = "relative", left_out: Collection[str] = ()) -> Degradation:
    """Draws kind and severity uniformly: the default mix of the benchmark.

    Args:
        parts: what the draw depends on, and nothing else, as for :func:`stvg_nst.seeding.derive_seed`.
        kernels: how large kernels are; no part of the draw.
        left_out: kinds that are not drawn; they change the kind alone, and no severity or seed.
    """
    kinds = [kind for kind in DEGRADATIONS if kind not in left_out]
    kind = kinds[derive_seed("kind", *parts) % len(kinds)]
    severity = SEVERITIES[derive_seed("severity", *parts) % len(SEVERITIES)]
    return Degradation(kind, severity, derive_seed("parameters", *parts), kernels)


def fixed_degradation(
    benchmark_seed: int, clip_id: str, kind: str, severity: int, *, kernels: Kernels = "relative"
) -> Degradation:
    """A chosen kind and severity, for results by kind and severity; only the remaining parameters are drawn.

    Raises:
        ValueError: the kind or the severity is unknown.
    """
    check_degradation(kind, severity)
    return Degradation(kind, severity, derive_seed("fixed", benchmark_seed, clip_id, kind, severity), kernels)
