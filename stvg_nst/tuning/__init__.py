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
from stvg_nst.tuning.flylora import FlyLoRA
from stvg_nst.tuning.frozen import ZeroShot
from stvg_nst.tuning.full import FullFineTuning
from stvg_nst.tuning.nst import NullSpaceTuning, ReferenceTokens
from stvg_nst.tuning.peft import AdaLoRA, DoRA, LoRA

__all__ = [
    "AdaLoRA",
    "AdapterConfig",
    "AdapterMismatchError",
    "DoRA",
    "FlyLoRA",
    "FullFineTuning",
    "InjectionReport",
    "LayerReport",
    "LoRA",
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
