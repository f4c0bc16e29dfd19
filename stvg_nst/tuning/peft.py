"""LoRA, AdaLoRA and DoRA: the layers are Hugging Face PEFT's own; here they are put into a grounder and trained.

PEFT's models are not used: they find layers by the end of their name, add AdaLoRA's penalty only to outputs that have a
``loss``, and leave it to the caller to run AdaLoRA's allocation.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from peft import AdaLoraConfig, LoraConfig
from peft.tuners.adalora import RankAllocator, SVDLinear
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from stvg_nst.tuning.base import TunedLinear
from stvg_nst.tuning.lowrank import LowRankTuner, capped_rank, describe_rank

# PEFT's name for the one adapter that a layer has; it shows in the names of the saved tensors.
ADAPTER = "default"
# The allocator's running scores of each entry's importance, by the names of its attributes.
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class PeftLinear(TunedLinear):
    """A frozen linear layer under one of PEFT's layers, which calls it.

    Args:
        peft_layer: around the frozen layer, with one adapter.
        scale: of the update; PEFT's own is 1 before.
    """

    def __init__(self, peft_layer: LoraLinear | SVDLinear, *, scale: float) -> None:
        super().__init__(cast(nn.Linear, peft_layer.get_base_layer()))
        peft_layer.scale_layer(scale)
        self.peft_layer = peft_layer

    def forward(self, x: Tensor) -> Tensor:
        return self.peft_layer(x)

    def merged(self) -> nn.Linear:
        twin = copy.deepcopy(self.peft_layer)
        twin.merge()
        return cast(nn.Linear, twin.get_base_layer())


@dataclass
class LoRA(LowRankTuner):
    """LoRA (Hu et al., ICLR 2022): ``W + scale B A``, both trained, B from zero."""

    # The layers themselves are compared, and dropout and seed end with training.
    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "dropout", "seed"})

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        rank = capped_rank(self.rank, layer)
        peft_layer = LoraLinear(layer, ADAPTER, LoraConfig(lora_dropout=self.dropout), r=rank, lora_alpha=rank)
        return PeftLinear(peft_layer, scale=self.scale), describe_rank(self.rank, layer)


@dataclass
class DoRA(LowRankTuner):
    """DoRA (Liu et al., ICML 2024): the norm of each output's weights is trained apart from their direction.

    The direction is ``W + scale B A``, with B from zero; the norms start as those of W.
    """

    free_fields: ClassVar[frozenset[str]] = frozenset({"targets", "dropout", "seed"})
    takes_weights_apart: ClassVar[bool] = True

    def _check(self, targets: Mapping[str, nn.Linear]) -> None:
        super()._check(targets)
        for name, layer in targets.items():
            # As PEFT computes it, in the weight's own precision: the squares of small weights may vanish, or those of
            # large ones overflow, and the layer would answer NaN.
            norm = torch.linalg.norm(layer.weight.detach(), dim=1)
            usable = (norm >= torch.finfo(norm.dtype).tiny) & norm.isfinite()
            if silent := int((~usable).sum()):
                raise ValueError(
                    f"{silent} of {layer.out_features} outputs of '{name}' have no weight at all, or weights of a norm "
                    f"that {norm.dtype} cannot hold, and so no direction; take it out of "
                    "--model.tuner.init_args.targets"
                )

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        rank = capped_rank(self.rank, layer)
        config = LoraConfig(lora_dropout=self.dropout, use_dora=True)
        peft_layer = LoraLinear(layer, ADAPTER, config, r=rank, lora_alpha=rank)
        return PeftLinear(peft_layer, scale=self.scale), f"{describe_rank(self.rank, layer)}, magnitudes"


@dataclass
class AdaLoRA(LowRankTuner):
    """AdaLoRA (Zhang et al., ICLR 2023): ``W + scale P diag(E) Q``, pruned where it matters least.

    Every layer starts with ``initial_rank`` directions, E from zero. After a warm-up, those of least importance in the
    whole model are switched off, more and more of them, until the layers keep ``rank`` directions on average; at last
    the survivors are trained on alone.
    """

    initial_rank: int | None = None
    """Directions of each layer before pruning, capped like ``rank``; 1.5 times that if not given, as in the paper."""

    warmup: float = 0.1
    """Share of the training before the pruning begins."""

    settle: float = 0.3
    """Share of the training after the pruning has ended."""

    interval: int = 10
    """Optimiser steps between two prunings."""

    beta1: float = 0.85
    """Decay of the running mean of each entry's sensitivity."""

    beta2: float = 0.85
    """Decay of the running mean of that sensitivity's uncertainty."""

    lambda_orth: float = 0.5
    """Weight of the penalty that keeps the directions orthogonal; the default is PEFT's."""

    free_fields: ClassVar[frozenset[str]] = frozenset(
        {"targets", "dropout", "seed", "warmup", "settle", "interval", "beta1", "beta2", "lambda_orth"}
    )
    _layers: dict[str, SVDLinear] = field(default_factory=dict, init=False, repr=False, compare=False)
    _budget: int = field(default=0, init=False, repr=False, compare=False)
    _scores: dict[str, dict[str, Tensor]] = field(init=False, repr=False, compare=False)
    _pattern: dict[str, list[bool]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._scores = {kind: {} for kind in SCORES}
        if self.warmup < 0 or self.settle < 0 or self.warmup + self.settle >= 1:
            raise ValueError(
                f"warmup and settle are shares of the training that leave time to prune, got {self.warmup} and "
                f"{self.settle}; lower --model.tuner.init_args.warmup or .settle"
            )
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1 step, got {self.interval}")
        for name in ("beta1", "beta2"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in (0, 1), got {getattr(self, name)}")

    @property
    def _start(self) -> int:
        return int(1.5 * self.rank) if self.initial_rank is None else self.initial_rank

    def _check(self, targets: Mapping[str, nn.Linear]) -> None:
        super()._check(targets)
        start, final = (
            sum(capped_rank(rank, layer) for layer in targets.values()) for rank in (self._start, self.rank)
        )
        if start <= final:
            raise ValueError(
                f"the target layers start with {start} directions and shall keep {final}, which leaves nothing to "
                f"prune; raise --model.tuner.init_args.initial_rank, got {self._start}, or lower rank, got {self.rank}"
            )
        self._budget = final

    def _wrap_layer(self, name: str, layer: nn.Linear) -> tuple[TunedLinear, str]:
        rank = capped_rank(self._start, layer)
        peft_layer = SVDLinear(layer, ADAPTER, self._config(total_steps=1), r=rank, lora_alpha=rank)
        # PEFT makes this parameter anew, and trainable, where it takes it to a layer's device or precision.
        peft_layer.ranknum.requires_grad_(False)
        self._layers[name] = peft_layer
        return PeftLinear(peft_layer, scale=self.scale), f"{describe_rank(self._start, layer)} before pruning"

    def _config(self, *, total_steps: int) -> AdaLoraConfig:
        return AdaLoraConfig(
            init_r=self._start,
            target_r=self.rank,
            tinit=int(self.warmup * total_steps),
            tfinal=int(self.settle * total_steps),
            deltaT=self.interval,
            beta1=self.beta1,
            beta2=self.beta2,
            total_step=total_steps,
            lora_dropout=self.dropout,
        )

    @property
    def loss_weights(self) -> dict[str, float]:
        return {"orthogonality": self.lambda_orth}

    def auxiliary_losses(self, qualities: Tensor) -> dict[str, Tensor]:
        """``orthogonality``: how far P and Q are from having orthonormal directions, the mean over both and layers."""
        distances = []
        for layer in self._layers.values():
            right, left = cast(Tensor, layer.lora_A[ADAPTER]), cast(Tensor, layer.lora_B[ADAPTER])
            distances += [distance_from_orthonormal(right), distance_from_orthonormal(left.T)]
        return {"orthogonality": torch.stack(distances).mean()}

    def after_step(self, grounder: nn.Module, step: int, total_steps: int) -> None:
        """Score the directions by the step's gradients, and switch off those beyond the budget of the moment.

        All processes see the same gradients, and so they come to the same ranks without a word.
        """
        allocator = self._allocator(grounder, total_steps)
        final = step >= total_steps - allocator.peft_config.tfinal
        if final and self._settled:
            allocator.mask_using_rank_pattern(grounder, self._pattern)
            return
        if final:
            # PEFT scores up to the step before, and so could not prune in a training of one step.
            allocator.update_ipt(grounder)
        _, pattern = allocator.update_and_allocate(grounder, step, force_mask=final)
        if pattern is not None:
            self._pattern = pattern
            self._refuse_overflow()
        if final:
            self._scores = {kind: {} for kind in SCORES}

    @torch.no_grad()
    def after_averaging(self, grounder: nn.Module) -> None:
        """Switch off what the last pruning did: the average remembers those directions, and would exceed the budget."""
        for name, kept in self._pattern.items():
            values = grounder.get_parameter(name)
            values[~torch.tensor(kept, device=values.device)] = 0.0

    @property
    def _settled(self) -> bool:
        """Whether the last pruning is over: scores end there. A training that is cut short may yet have it to do."""
        return bool(self._pattern) and not any(self._scores.values())

    def _allocator(self, grounder: nn.Module, total_steps: int) -> RankAllocator:
        """PEFT's allocator, made anew for each step: what it remembers is kept here, where checkpoints find it."""
        allocator = RankAllocator(grounder, self._config(total_steps=total_steps), ADAPTER)
        allocator.target_bgt = self._budget  # PEFT's own takes no account of layers that cannot hold ``rank``
        devices = {name: parameter.device for name, parameter in grounder.named_parameters()}
        for kind, scores in self._scores.items():
            for name, score in scores.items():
                scores[name] = score.to(devices[name])  # what a checkpoint held is on the CPU
            setattr(allocator, kind, scores)
        return allocator

    def _refuse_overflow(self) -> None:
        for name, score in self._scores["exp_avg_unc"].items():
            if not score.isfinite().all():
                raise RuntimeError(
                    f"the importance of '{name}' is not finite, for gradients overflowed and were scaled down again; "
                    f"train AdaLoRA with --trainer.precision bf16-mixed or 32 instead of 16-mixed"
                )

    def training_state(self) -> dict[str, Tensor]:
        """Scores and ranks; ``pruned`` says whether there was a pruning yet, and that this is AdaLoRA's state."""
        state = {f"{kind}/{name}": score for kind, scores in self._scores.items() for name, score in scores.items()}
        state |= {f"pattern/{name}": torch.tensor(kept) for name, kept in self._pattern.items()}
        return state | {"pruned": torch.tensor(bool(self._pattern))}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        if "pruned" not in state:
            raise ValueError(
                "the checkpoint does not hold the importance scores of AdaLoRA's directions; resume with the "
                "configuration of the interrupted run"
            )
        self._scores = {kind: {} for kind in SCORES}
        self._pattern = {}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind in SCORES:
                self._scores[kind][name] = value.clone()
            elif kind == "pattern":
                self._pattern[name] = value.tolist()

    def diagnostics(self) -> dict[str, Tensor]:
        """``rank`` of each layer: the directions that the last pruning kept, those it started with before the first."""
        values = {}
        for name, layer in self._layers.items():
            kept = self._pattern.get(f"{name}.peft_layer.lora_E.{ADAPTER}", [True] * layer.r[ADAPTER])
            values[f"rank/{name}"] = torch.tensor(float(sum(kept)))
        return values


def distance_from_orthonormal(rows: Tensor) -> Tensor:
    """``||M M^T - I||_F`` of M (rank, d), a float32 scalar, under autocast too."""
    with torch.autocast(rows.device.type, enabled=False):
        gram = rows.float() @ rows.float().T
    return torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device))
