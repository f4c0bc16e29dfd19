"""What a frozen linear map sees of its input and what it ignores, Sec. III-B: the split, and its place on disk."""

from stvg_nst.nullspace.split import (
    DualSpace,
    RankRule,
    Spectrum,
    check_rule,
    fingerprint,
    measure_spectrum,
    split_dual_space,
    weight_matrix,
)
from stvg_nst.nullspace.store import DualSpaceStore, DualSpaceStoreError

__all__ = [
    "DualSpace",
    "DualSpaceStore",
    "DualSpaceStoreError",
    "RankRule",
    "Spectrum",
    "check_rule",
    "fingerprint",
    "measure_spectrum",
    "split_dual_space",
    "weight_matrix",
]
