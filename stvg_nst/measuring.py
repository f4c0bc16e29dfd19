"""Reads off a trainer and PyTorch how answers are computed."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule, Trainer

from stvg_nst.inference import InferenceProtocol
from stvg_nst.results.conditions import Measurement


def measurement_of(trainer: Trainer, module: LightningModule, inference: InferenceProtocol) -> Measurement:
    """What a trainer measures a module with, on the device that it has chosen."""
    device = trainer.strategy.root_device.type
    products, convolutions = _float32_types(device)
    compiled = module._compiler_ctx is not None or any(
        isinstance(part, torch._dynamo.OptimizedModule) or part._compiled_call_impl is not None
        for part in module.modules()
    )
    return Measurement(
        precision=str(trainer.precision),
        float32_products=products,
        inference=inference,
        float32_convolutions=convolutions,
        compiled=compiled,
        device=device,
    )


def _float32_types(device: str) -> tuple[str, str]:
    """To what products of float32 matrices are rounded on a kind of device, and convolutions.

    ``torch.get_float32_matmul_precision`` and ``allow_tf32`` raise once a part of the newer settings is used; these
    answer in either case.
    """
    backends: Any = torch.backends  # its types leave the newer settings out
    settings = {
        "cuda": (backends.cuda.matmul, backends.cudnn.conv),
        "cpu": (backends.mkldnn.matmul, backends.mkldnn.conv),
    }
    if device not in settings:
        return "ieee", "ieee"
    products, convolutions = (setting.fp32_precision for setting in settings[device])
    return _unless_none(products), _unless_none(convolutions)


def _unless_none(setting: str) -> str:
    return "ieee" if setting == "none" else setting
