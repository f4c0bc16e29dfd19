"""A toy grounder under null-space tuning that does something."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from stvg_nst.tuning import NullSpaceTuning
from stvg_nst.tuning.nst.coefficients import Coefficients


@pytest.fixture
def coefficients():
    """Coefficients of given values (B, ..., k)."""
    return lambda values: Coefficients(values, torch.eye(values.shape[-1]), torch.zeros(values.shape[-1]))


@pytest.fixture
def tuned(toy: ModuleType):
    """A tuned toy whose heads are random, so that every branch does something; options as keywords."""

    def make(targets=None, *, grounder=None, scale: float = 0.3, **options):
        grounder = toy.ToyGrounder() if grounder is None else grounder
        options = {"rank": 6, "hidden": 16} | options
        tuner = NullSpaceTuning(targets=toy.TARGETS if targets is None else targets, **options)
        tuner.inject(grounder)
        generator = torch.Generator().manual_seed(1)
        for layer in toy.layers_of(grounder):
            for head in (layer.unit.row_head, layer.unit.null_head):
                if head is not None:
                    weight = head.outer.weight
                    weight.data.copy_(scale * torch.randn(weight.shape, generator=generator))
        return grounder, tuner

    return make
