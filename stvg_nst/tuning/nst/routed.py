"""What tuners with a router ahead of their layers have in common: what it says, and where its hard gate opens."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stvg_nst.tuning.base import Tuner
from stvg_nst.tuning.nst.objective import per_clip, router_loss
from stvg_nst.tuning.nst.reference import ForwardState
from stvg_nst.tuning.nst.router import RouterReads, StatisticsRouter, shared_router
from stvg_nst.types import BackboneFeatures


class GateThreshold(NamedTuple):
    """Where a hard gate opens, and what that does to clean clips.

    Args:
        logit: the gate opens above it.
        share: of clean clips, which may open the gate.
        opened: how many of the clean clips that it was calibrated on open the gate.
        clips: how many these are.
        bound: the most that a new clean clip, drawn as these were, opens the gate with.
    """

    logit: float
    share: float
    opened: int
    clips: int
    bound: float

    @classmethod
    def of(cls, logits: Tensor, share: float) -> GateThreshold:
        """The lowest threshold that a new clean clip exceeds with a probability of at most ``share``.

        Of N + 1 clips of which none is special, the new one is among the k + 1 highest with a probability of
        (k + 1) / (N + 1), so that the threshold is the (k + 1)-th highest of N for the largest k that ``share`` allows.
        Where there are too few clips for any, it is the highest of all.

        Args:
            logits: (N,), of clean clips.
            share: in (0, 1).

        Raises:
            ValueError: there is no clip.
        """
        if not len(logits):
            raise ValueError(
                "expected at least one clean clip to set the threshold of a hard gate by, got none; show the "
                "validation split more clips, or leave out --model.tuner.init_args.false_alarms"
            )
        ranked = logits.sort(descending=True).values
        # As the share is written: in binary 0.29 of 100 is a little less than 29, and would be 28.
        opened = max(math.floor(Fraction(str(share)) * (len(ranked) + 1)) - 1, 0)
        threshold = ranked[opened].item()
        return cls(
            logit=threshold,
            share=share,
            opened=int((ranked > threshold).sum()),
            clips=len(ranked),
            bound=(opened + 1) / (len(ranked) + 1),
        )

    def __str__(self) -> str:
        few = "" if self.bound <= self.share else f", for {self.clips} are too few to promise {self.share:.2%}"
        probability = torch.tensor(self.logit, dtype=torch.float64).sigmoid().item()
        return (
            f"the hard gate opens above a probability of {probability:.3g}: {self.opened} of "
            f"{self.clips} clean clips open it, and a new one with a probability of at most {self.bound:.2%}{few}"
        )


class RoutedTuner(Tuner):
    """A tuner that may have one router ahead of all layers; its options are those of ``RouterOptions``."""

    _state: ForwardState
    router_reads: RouterReads
    false_alarms: float | None

    @property
    @abstractmethod
    def hard(self) -> bool:
        """Whether the router's word is rounded at inference."""

    @torch.no_grad()
    def verdicts(self) -> Tensor | None:
        """The mean over real frames where each has a gate of its own."""
        logits = self._state.shared_logits
        return None if logits is None else per_clip(logits.sigmoid(), self._frame_mask)

    @property
    def learns_from_extra_clips(self) -> bool:
        return self.router_reads == "statistics"

    def extra_loss(
        self, grounder: nn.Module, features: BackboneFeatures, frame_mask: Tensor, qualities: Tensor
    ) -> Tensor:
        router = shared_router(grounder)
        assert isinstance(router, StatisticsRouter), "no other router can do without a sentence"
        return router_loss(router.of_features(features, frame_mask), qualities.float(), frame_mask)

    @property
    def calibrates_gate(self) -> bool:
        return self.false_alarms is not None

    @torch.no_grad()
    def opening_logits(self) -> Tensor:
        logits = self._state.shared_logits
        assert logits is not None, "a gate that is calibrated has a shared router"
        return logits if logits.ndim == 1 else logits.masked_fill(~self._frame_mask, -math.inf).amax(dim=1)

    @torch.no_grad()
    def calibrate_gate(self, grounder: nn.Module, logits: Tensor) -> str:
        assert self.false_alarms is not None, "asked for"
        found = GateThreshold.of(logits, self.false_alarms)
        shared_router(grounder).threshold.fill_(found.logit)
        return str(found)

    def warn_of_uncalibrated_gate(self, grounder: nn.Module) -> None:
        if self.hard and self.calibrates_gate and not shared_router(grounder).threshold:
            warnings.warn(
                "the hard gate opens above a probability of one half: the threshold by which at most "
                f"{self.false_alarms:.2%} of clean clips open it is set when a fit ends; give the adapter that the fit "
                "left (--model.adapter RUN/adapter.safetensors), or leave out --model.tuner.init_args.false_alarms",
                stacklevel=2,
            )

    @property
    def _frame_mask(self) -> Tensor:
        """(B, T), True on real frames of the last forward."""
        return self._state.bank_for("reference_point").frame_mask
