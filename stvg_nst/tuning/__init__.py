"""Tuning methods behind one interface."""

from stvg_nst.tuning.adapter import (
    AdapterConfig,
    AdapterMismatchError,
    adapter_state,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from stvg_nst.tuning.base import InjectionReport, LayerReport, TunedLinear, Tuner
from stvg_nst.tuning.frozen import ZeroShot
from stvg_nst.tuning.full import FullFineTuning
from stvg_nst.tuning.nst import NullSpaceTuning, ReferenceTokens

__all__ = [
    "AdapterConfig",
    "AdapterMismatchError",
    "FullFineTuning",
    "InjectionReport",
    "LayerReport",
    "NullSpaceTuning",
    "ReferenceTokens",
    "TunedLinear",
    "Tuner",
    "ZeroShot",
    "adapter_state",
    "load_adapter",
    "read_adapter_config",
    "save_adapter",
]
