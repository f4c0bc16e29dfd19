"""How well a model tells degraded clips from clean ones, by kind and severity of what was done to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stvg_nst.evaluation.tubes import CLEAN
from stvg_nst.evaluation.views import quality_masks


def auroc(low: np.ndarray, high: np.ndarray) -> float:
    """The chance that a degraded sample's verdict is above a clean one's; ties count half.

    Args:
        low, high: verdicts of degraded and of clean samples, at least one of each.
    """
    clean = np.sort(high)
    below, not_above = (np.searchsorted(clean, low, side=side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * len(clean)))


def separation(conditions: Sequence[str], verdicts: np.ndarray) -> dict[str, float]:
    """AUROC of the samples of each view of the low quality against all clean samples.

    Args:
        conditions: S, ``HQ``, ``LQ`` or ``kind:severity``.
        verdicts: (S,), higher for lower quality.

    Returns:
        By view, such as ``LQ``, ``defocus``, ``severity-1`` and ``defocus:1``; nothing where the samples are of one
        quality only.
    """
    names = np.array(conditions)
    high = verdicts[names == CLEAN]
    if not len(high):
        return {}
    return {view: auroc(verdicts[mask], high) for view, mask in quality_masks(names) if view != CLEAN}
