"""What happens inside a tuned model: energies, leakage, gradients and gates, in TensorBoard."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from callbacks.run import grounding_module, tensorboard_writers
from stvg_nst.best_effort import BestEffort
from stvg_nst.evaluation.separation import separation as separation_by_view
from stvg_nst.types import Batch, Quality

# Sub-modules of the quality-adaptive unit whose gradients tell its parts apart. The null head's is the regulariser's
# alone, for no task gradient passes an exact null space; where it is not small, the null space leaks.
PARTS = ("row_head", "null_head", "router")


class NullSpaceMonitor(lightning.Callback):
    """Logs a tuner's diagnostics; a tuner without any, and a model without the parts, log nothing.

    In training, every so many steps: each layer's diagnostics of the last forward (``nullspace/...``; the mean over the
    clips where there is a value per clip), the branches' energies as means over the layers (``energy/row`` and
    ``energy/null``), and the gradient norm of each part over all layers (``gradient_norm/...``), after unscaling and
    before clipping. After each validation: the gates' histograms over clips and layers, by quality (``gates/HQ`` and
    ``gates/LQ``), their means, and how well they tell the qualities apart: by a clip's mean over the layers
    (``gates/auroc``), by kind of degradation (``auroc_by_kind/...``), and by layer (``gate_auroc/...``) unless one
    serves all. In distributed runs these are the values of rank 0. Where clips are shown in two passes, the gates
    are those of the second, and a batch of which it lacks a clip (one of a single frame) is left out. What cannot be
    shown, a gate that is no number for instance, is left out with one warning.

    Args:
        every_n_steps: optimiser steps between two entries.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._best_effort = BestEffort("the null space's diagnostics in TensorBoard")
        self._clear()

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        writers = tensorboard_writers(trainer)
        if not writers or trainer.global_step % self.every_n_steps:
            return
        diagnostics = grounding_module(pl_module).tuner.diagnostics()
        values = {f"nullspace/{name}": value.float().mean() for name, value in diagnostics.items()}
        values |= _energies(values)
        values |= {f"gradient_norm/{part}": norm for part, norm in gradient_norms(pl_module).items()}
        with self._best_effort:
            for writer in writers:
                for name, value in values.items():
                    writer.add_scalar(name, value.item(), trainer.global_step)

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._clear()

    def _clear(self) -> None:
        # By layer, one (B,) for each batch; verdicts are the gates before any rounding.
        self._gates: dict[str, list[Tensor]] = defaultdict(list)
        self._verdicts: dict[str, list[Tensor]] = defaultdict(list)
        self._qualities: list[Tensor] = []
        self._conditions: list[str] = []

    def on_validation_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not tensorboard_writers(trainer):
            return
        diagnostics = grounding_module(pl_module).tuner.diagnostics()
        gates = {name.removeprefix("gate/"): value for name, value in diagnostics.items() if name.startswith("gate/")}
        if any(len(gate) != len(batch.clips) for gate in gates.values()) or not gates:
            return
        for layer, gate in gates.items():
            self._gates[layer].append(gate.cpu())
            self._verdicts[layer].append(diagnostics.get(f"router/{layer}", gate).cpu())
        self._qualities.append(batch.qualities.cpu())
        self._conditions += [clip.condition for clip in batch.clips]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if not trainer.sanity_checking and self._qualities:
            with self._best_effort:
                self._show_gates(trainer)

    def _show_gates(self, trainer: lightning.Trainer) -> None:
        qualities = torch.cat(self._qualities)
        gates_NB = torch.stack([torch.cat(parts) for parts in self._gates.values()])  # N wrapped layers
        verdicts = {layer: torch.cat(parts) for layer, parts in self._verdicts.items()}
        scores = separation(verdicts, qualities) | separation_by_kind(verdicts, self._conditions)
        for writer in tensorboard_writers(trainer):
            for quality in Quality:
                gates = gates_NB[:, qualities == quality].flatten()
                if gates.numel():
                    writer.add_histogram(f"gates/{quality.name}", gates, trainer.global_step)
                    writer.add_scalar(f"gates/mean_{quality.name}", gates.mean().item(), trainer.global_step)
            for name, score in scores.items():
                writer.add_scalar(name, score, trainer.global_step)


def separation(verdicts: Mapping[str, Tensor], qualities: Tensor) -> dict[str, float]:
    """AUROC of gates against the quality label: the chance that an LQ clip's gate is above an HQ clip's.

    It is 1 for gates that tell every pair apart and 0.5 for gates that tell nothing.

    Args:
        verdicts: by layer, (B,), each clip's gate in [0, 1] before it is rounded.
        qualities: (B,), 0 for high and 1 for low quality.

    Returns:
        ``gates/auroc`` of the mean over the layers, and ``gate_auroc/<layer>`` of each layer where they do not share
        one router; nothing where the clips are of one quality only.
    """
    if len(qualities.unique()) < 2:
        return {}
    verdicts_NB = torch.stack(list(verdicts.values()))  # N wrapped layers
    scores = {"gates/auroc": binary_auroc(verdicts_NB.mean(dim=0), qualities).item()}
    if (verdicts_NB != verdicts_NB[0]).any():
        scores |= {
            f"gate_auroc/{layer}": binary_auroc(verdict, qualities).item() for layer, verdict in verdicts.items()
        }
    return scores


def separation_by_kind(verdicts: Mapping[str, Tensor], conditions: Sequence[str]) -> dict[str, float]:
    """``auroc_by_kind/<kind>``: as ``gates/auroc``, of the clips of one kind of degradation against all clean ones.

    Args:
        verdicts: by layer, (B,), each clip's gate in [0, 1] before it is rounded.
        conditions: B, how each clip is shown (:attr:`stvg_nst.types.ClipInfo.condition`).
    """
    mean = torch.stack(list(verdicts.values())).mean(dim=0)
    found = separation_by_view(conditions, mean.numpy())
    kinds = {condition.partition(":")[0] for condition in conditions}
    return {f"auroc_by_kind/{kind}": found[kind] for kind in sorted(kinds & found.keys())}


def _energies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of both branches, the mean over the layers that have them."""
    means = {}
    for branch in ("row", "null"):
        found = [value for name, value in values.items() if name.startswith(f"nullspace/{branch}_energy/")]
        if found:
            means[f"energy/{branch}"] = torch.stack(found).mean()
    return means


def gradient_norms(model: torch.nn.Module) -> dict[str, Tensor]:
    """Euclidean norm of the gradients of each of :data:`PARTS` that has any, over all wrapped layers."""
    gradients: dict[str, list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        for part in PARTS:
            if part in name.split(".") and parameter.grad is not None:
                gradients[part].append(parameter.grad.detach().float().norm())
    return {part: torch.stack(norms).norm() for part, norms in gradients.items()}
