"""Adapters that were never trained: what they say differs from what the frozen model says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from stvg_nst.prediction import load
from stvg_nst.tuning import NullSpaceTuning, save_adapter
from stvg_nst.tuning.adapter import adapter_state

SENTENCE = "the big red star spins"
DECODERS = ("*_decoder.layers.*.ffn.linear2",)


def save_random_adapter(
    path: Path, *, model: str | Path = "mini", targets: Sequence[str] = DECODERS, threshold: float = 0.0, **options: str
) -> Path:
    """Null-space tuning of the decoders of a model; ``threshold`` is the logit above which a hard gate opens."""
    tuner = NullSpaceTuning(targets=targets, rank=8, seed=0, **options)  # type: ignore[arg-type]
    grounder = load(model, device="cpu").frozen.grounder
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(1)
    for name, tensor in adapter_state(grounder).items():
        if name.endswith("row_head.outer.weight"):
            tensor.data = torch.randn(tensor.shape, generator=generator)
        elif name.endswith("router.threshold"):
            tensor.fill_(threshold)
    save_adapter(path, grounder, tuner)
    return path
