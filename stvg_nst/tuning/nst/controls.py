"""The method without its null space: what the gate alone is good for."""

from __future__ import annotations

from dataclasses import dataclass, field

from stvg_nst.tuning.nst import NullSpaceTuning
from stvg_nst.tuning.nst.residual import Basis


@dataclass
class GatedAdapter(NullSpaceTuning):
    """The control without a null space: the gate, the router and the retrieval of null-space tuning, around one branch.

    The branch runs along trained directions that no decomposition chose, so only the gate protects a clip.
    """

    basis: Basis = field(default="learned", init=False)
    null_branch: bool = field(default=False, init=False)
