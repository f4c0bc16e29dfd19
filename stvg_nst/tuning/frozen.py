"""The zero-shot baseline: the pre-trained model as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from stvg_nst.tuning.base import LayerReport, TunedLayer, Tuner


@dataclass
class ZeroShot(Tuner):
    """Freezes everything and adds nothing: the reference point of every gain and every drop."""

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLayer], tuple[LayerReport, ...]]:
        return {}, ()
