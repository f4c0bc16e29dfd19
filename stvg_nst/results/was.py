"""The Weighted Adaptation Score, eq. (8): what tuning restores on LQ clips less what it costs on HQ clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

Points = TypeVar("Points", float, "np.ndarray")
"""Percent points: one number, or one for each replicate of a bootstrap."""


def weighted_adaptation_score(
    lq: Points, lq_base: Points, hq: Points, hq_base: Points, lambda_hq: float = 1.0
) -> Points:
    """Gain on LQ minus ``lambda_hq`` times the drop on HQ, both relative to the zero-shot baseline.

    Args:
        lq, hq: a metric of the tuned model, in percent points.
        lq_base, hq_base: the same metric of the baseline.
        lambda_hq: weight of the drop. The paper lost its value; its text is consistent with 0.93 to 1.00.

    Returns:
        Percent points; 0 for the baseline itself, positive where tuning restores more than it costs.

    Source: eq. (8), as reconstructed in docs/paper_map.md.
    """
    return (lq - lq_base) - lambda_hq * (hq_base - hq)  # Eq. (8)


def adaptation_scores(
    metrics: Mapping[str, Points], baseline: Mapping[str, Points], lambda_hq: float = 1.0
) -> dict[str, Points]:
    """``WAS/<name>`` for every ``<name>`` that ``metrics`` has under both ``LQ/`` and ``HQ/``.

    Args:
        metrics, baseline: percent points, keyed like ``HQ/m_vIoU`` or ``LQ/declarative/vIoU@0.5``.

    Raises:
        ValueError: the baseline lacks a metric that is needed.
    """
    names = [key.removeprefix("LQ/") for key in metrics if key.startswith("LQ/")]
    names = [name for name in names if f"HQ/{name}" in metrics]
    require_metrics(baseline, (f"{quality}/{name}" for name in names for quality in ("LQ", "HQ")))
    return {
        f"WAS/{name}": weighted_adaptation_score(
            metrics[f"LQ/{name}"], baseline[f"LQ/{name}"], metrics[f"HQ/{name}"], baseline[f"HQ/{name}"], lambda_hq
        )
        for name in names
    }


def require_metrics(baseline: Mapping[str, object], names: Iterable[str]) -> None:
    """Raises ValueError, naming them, where the baseline lacks some of ``names``."""
    missing = [name for name in names if name not in baseline]
    if missing:
        raise ValueError(
            f"the WAS needs {', '.join(missing)} of the zero-shot baseline, which has "
            f"{', '.join(baseline) or 'nothing'}; evaluate the baseline on the same data, HQ and LQ, "
            "with the same thresholds"
        )
