"""Tuning methods behind one interface.

Null-space tuning works on the linear layers and 1 x 1 convolutions of any frozen model. An image classifier of timm,
whose reference bank is made of its patches:

>>> import timm, torch
>>> from stvg_nst.tuning import NullSpaceTuning, ReferenceTokens
>>> model = timm.create_model("vit_tiny_patch16_224")  # pretrained=True for a real one
>>> tuner = NullSpaceTuning(["blocks.*.mlp.fc2"], rank=16, reference=ReferenceTokens("patch_embed", width=192))
>>> report = tuner.inject(model)  # freezes the model, and puts it in eval mode for good
>>> tuner.set_training(model, True)  # instead of model.train()
>>> images, labels, qualities = torch.randn(2, 3, 224, 224), torch.tensor([3, 7]), torch.tensor([0, 1])  # HQ, LQ
>>> loss = torch.nn.functional.cross_entropy(model(images), labels)
>>> for name, value in tuner.auxiliary_losses(qualities).items():
...     loss = loss + tuner.loss_weights[name] * value
>>> loss.backward()  # and let an optimiser move tuner.trainable_parameters(model)
>>> len(report.layers), report.layers[0].shape, report.layers[0].nullity
(12, (192, 768), 576)
"""

from stvg_nst.tuning.adapter import (
    AdapterConfig,
    AdapterMismatchError,
    adapter_state,
    load_adapter,
    read_adapter_config,
    save_adapter,
)
from stvg_nst.tuning.base import InjectionReport, LayerReport, TunedLayer, TunedLinear, Tuner
from stvg_nst.tuning.corda import CorDA
from stvg_nst.tuning.flylora import FlyLoRA
from stvg_nst.tuning.frozen import ZeroShot
from stvg_nst.tuning.full import FullFineTuning
from stvg_nst.tuning.gated_lora import GatedLoRA
from stvg_nst.tuning.houlsby import HoulsbyAdapters
from stvg_nst.tuning.nst import NullSpaceTuning, ReferenceTokens
from stvg_nst.tuning.nst.controls import GatedAdapter
from stvg_nst.tuning.peft import AdaLoRA, DoRA, LoRA
from stvg_nst.tuning.projection import NullSpaceProjection
from stvg_nst.tuning.prompts import PromptTuning
from stvg_nst.tuning.switch import Switch

__all__ = [
    "AdaLoRA",
    "AdapterConfig",
    "AdapterMismatchError",
    "CorDA",
    "DoRA",
    "FlyLoRA",
    "FullFineTuning",
    "GatedAdapter",
    "GatedLoRA",
    "HoulsbyAdapters",
    "InjectionReport",
    "LayerReport",
    "LoRA",
    "NullSpaceProjection",
    "NullSpaceTuning",
    "PromptTuning",
    "ReferenceTokens",
    "Switch",
    "TunedLayer",
    "TunedLinear",
    "Tuner",
    "ZeroShot",
    "adapter_state",
    "load_adapter",
    "read_adapter_config",
    "save_adapter",
]
