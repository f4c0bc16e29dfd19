"""Knowledge-preserving LoRA: CorDA (Yang et al., NeurIPS 2024, arXiv 2406.05223) in its knowledge-preserved mode.

The decomposition and the layer are Hugging Face PEFT's own. What clean clips show to each layer is measured here: PEFT
counts padding, and expects the tokens of one text.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora.corda import collect_eigens_for_layer
from torch import Tensor, nn

from stvg_nst.tuning.base import CleanBatch, TunedLinear
from stvg_nst.tuning.clean_inputs import check_calibration_clips, measure_clean_inputs
from stvg_nst.tuning.lowrank import LowRankTuner, capped_rank, describe_rank
from stvg_nst.tuning.peft import ADAPTER, PeftLinear


class CordaLinear(PeftLinear):
    """A frozen linear layer W, as ``y = (R + scale B A) x + b`` in one of PEFT's layers, all but R and b trained.

    Until it is calibrated R is W and B is zero. Calibration moves the part of W that clean clips use least into B A:
    ``R = W - scale B A``. R is a frozen copy, saved with the adapter, so that W can still be told by its fingerprint.

    Args:
        base_layer: the frozen layer.
        rank: directions of B A.
        scale: of the update.
    """

    base_layer: nn.Linear
    clips: Tensor

    def __init__(self, base_layer: nn.Linear, rank: int, *, scale: float) -> None:
        rest = copy.deepcopy(base_layer).requires_grad_(False)
        rest.bias = base_layer.bias
        super().__init__(LoraLinear(rest, ADAPTER, LoraConfig(), r=rank, lora_alpha=rank), scale=scale)
        self.base_layer = base_layer  # W, and not R, which is inside of PEFT's layer
        self.register_buffer("clips", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def calibrate(self, moment: Tensor, clips: int) -> None:
        """Start from what clean clips show to the layer: the mean of ``x x^T``, (d_in, d_in), of so many clips."""
        # Any: PEFT finds what it needs in attributes that a layer does not have.
        rest: Any = self.peft_layer.get_base_layer()
        rank, scale = self.peft_layer.r[ADAPTER], self.peft_layer.scaling[ADAPTER]
        weight = self.base_layer.weight
        rest.weight.copy_(weight)
        # In units of its own mean: the start is the same in all units, and in some they would overflow.
        rest.covariance_matrix = (moment / moment.diagonal().mean()).to(weight.device, torch.float32)
        eigens = collect_eigens_for_layer(rest, LoraConfig())
        del rest.covariance_matrix
        # The last singular directions of W C, C being the moment, carry the least of what the layer answers to clean
        # clips: CorDA's knowledge-preserved mode trains these.
        eigens.S_WC = eigens.S_WC[-rank:].clone()
        eigens.U_WC, eigens.V_WC = (basis[:, -rank:].to(weight.device) for basis in (eigens.U_WC, eigens.V_WC))
        # The units of the inputs say how B A is shared out between B and A, by factors of thousands from one layer to
        # another. PEFT divides by the largest input; here both start with one norm, in any units.
        units = (eigens.V_WC * eigens.S_WC.sqrt()).norm() / eigens.S_WC.sum().sqrt()
        eigens.S_WC, eigens.V_WC = eigens.S_WC * units, eigens.V_WC / units
        rest.eigens = eigens
        self.peft_layer.corda_init(ADAPTER, "corda")
        # PEFT leaves float32. An adapter is kept in the layer's own precision, and R makes up for what A and B lose.
        factors = [factor[ADAPTER].weight for factor in (self.peft_layer.lora_B, self.peft_layer.lora_A)]
        for factor in factors:
            factor.data = factor.data.to(weight.dtype)
        left, right = (factor.float() for factor in factors)
        rest.weight.copy_(weight.float() - scale * left @ right)
        self.clips.fill_(clips)


@dataclass
class CorDA(LowRankTuner):
    """CorDA (Yang et al., NeurIPS 2024), knowledge-preserved: LoRA that starts as the part of W clean clips use least.

    It starts from the pre-trained function but for rounding: W is taken apart and summed up again.
    """

    calibration_clips: int = 64
    """Clean clips of the tuning set to take W apart by, before the first step; all where there are fewer."""

    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "dropout", "seed", "calibration_clips"})
    takes_weights_apart: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_calibration_clips(self.calibration_clips)
        if self.dropout:
            raise ValueError(
                f"CorDA's update holds a part of the pre-trained weight, which dropout would take away, got dropout "
                f"{self.dropout}; leave out --model.tuner.init_args.dropout"
            )

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        rank = capped_rank(self.rank, layer)
        return CordaLinear(layer, rank, scale=self.scale), describe_rank(self.rank, layer)

    @property
    def clean_clips(self) -> int:
        return self.calibration_clips

    def is_calibrated(self, grounder: nn.Module) -> bool:
        return all(layer.clips for layer in _corda_layers(grounder).values())

    def calibrate(
        self, grounder: nn.Module, batches: Iterable[CleanBatch], forward: Callable[[CleanBatch], object]
    ) -> None:
        layers = _corda_layers(grounder)
        clean = measure_clean_inputs(grounder, layers, batches, forward)
        for name in layers:
            energy = clean.moments[name].diagonal().mean().item()
            if not 0 < energy < math.inf:
                raise ValueError(
                    f"clean clips must show finite inputs that are not all zero to '{name}', got a mean square of "
                    f"{energy:.3g}; take it out of --model.tuner.init_args.targets, or check the weights"
                )
        for name, layer in layers.items():
            layer.calibrate(clean.moments[name], clean.clips)


def _corda_layers(model: nn.Module) -> dict[str, CordaLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, CordaLinear)}
