"""The Weighted Adaptation Score, eq. (8): what tuning restores on LQ clips less what it costs on HQ clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from stvg_nst.results.metric_names import MetricName

if TYPE_CHECKING:
    import numpy as np

LAMBDA_HQ = 1.0
"""Weight of the drop on HQ, in every table. The paper lost its value; its text is consistent with 0.93 to 1.00."""

Points = TypeVar("Points", float, "np.ndarray")
"""Percent points: one number, or one for each replicate of a bootstrap."""


def weighted_adaptation_score(
    lq: Points, lq_base: Points, hq: Points, hq_base: Points, lambda_hq: float = LAMBDA_HQ
) -> Points:
    """Gain on LQ minus ``lambda_hq`` times the drop on HQ, both relative to the zero-shot baseline.

    Args:
        lq, hq: a metric of the tuned model, in percent points.
        lq_base, hq_base: the same metric of the baseline.
        lambda_hq: weight of the drop.

    Returns:
        Percent points; 0 for the baseline itself, positive where tuning restores more than it costs.

    Source: eq. (8), as reconstructed in docs/paper_map.md.
    """
    return (lq - lq_base) - lambda_hq * (hq_base - hq)  # Eq. (8)


def with_adaptation_scores(
    metrics: Mapping[str, Points], baseline: Mapping[str, Points], lambda_hq: float = LAMBDA_HQ
) -> dict[str, Points]:
    """Metrics, and the WAS of each that they have on both LQ and HQ, in place of any WAS to another baseline.

    Args:
        metrics, baseline: percent points, keyed like ``HQ/m_vIoU`` or ``LQ/declarative/vIoU@0.5``.
        lambda_hq: see :func:`weighted_adaptation_score`.

    Raises:
        ValueError: the baseline lacks a metric that is needed, or a key is no name of a metric.
    """
    names = [MetricName.parse(key) for key in metrics]
    scored = [name for name in names if name.view == "LQ" and name.on("HQ") in metrics]
    require_metrics(baseline, (name.on(view) for name in scored for view in ("LQ", "HQ")))
    scores = {}
    for name in scored:
        low, high = name.on("LQ"), name.on("HQ")
        scores[name.on("WAS")] = weighted_adaptation_score(
            metrics[low], baseline[low], metrics[high], baseline[high], lambda_hq
        )
    return {**{str(name): metrics[str(name)] for name in names if name.view != "WAS"}, **scores}


def require_metrics(baseline: Mapping[str, object], names: Iterable[str]) -> None:
    """Raises ValueError, naming them, where the baseline lacks some of ``names``."""
    missing = [name for name in names if name not in baseline]
    if missing:
        raise ValueError(
            f"the WAS needs {', '.join(missing)} of the zero-shot baseline, which has "
            f"{', '.join(baseline) or 'nothing'}; evaluate the baseline on the same data, HQ and LQ, "
            "with the same thresholds"
        )
