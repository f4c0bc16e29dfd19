"""Adapters of the shipped miniature that were never trained: what they say differs from what the frozen model says."""

from __future__ import annotations

from pathlib import Path

import torch

from stvg_nst.prediction import load
from stvg_nst.tuning import NullSpaceTuning, save_adapter
from stvg_nst.tuning.adapter import adapter_state

SENTENCE = "the big red star spins"


def save_random_adapter(path: Path, *, threshold: float = 0.0, **options: str) -> Path:
    """Null-space tuning of the decoders; ``threshold`` is the logit above which a hard gate of one router opens."""
    tuner = NullSpaceTuning(targets=["*_decoder.layers.*.ffn.linear2"], rank=8, seed=0, **options)  # type: ignore[arg-type]
    grounder = load("mini", device="cpu").frozen.grounder
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in adapter_state(grounder).items():
        if name.endswith("row_head.outer.weight"):
            tensor.data = torch.randn(tensor.shape, generator=generator)
        elif name.endswith("router.threshold"):
            tensor.fill_(threshold)
    save_adapter(path, grounder, tuner)
    return path
