"""The LightningModule: wires a frozen grounder, a tuner, the objective and the metrics together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from stvg_nst.losses import GroundingLoss
from stvg_nst.metrics import GroundingMetrics
from stvg_nst.models.base import Grounder
from stvg_nst.models.weights import load_weights, modules_fingerprint
from stvg_nst.tubes import decode_tubes
from stvg_nst.tuning.adapter import adapter_state, load_adapter
from stvg_nst.tuning.base import Tuner
from stvg_nst.types import BackboneFeatures, Batch, GroundingOutput, Quality, Tube


class GroundingModule(lightning.LightningModule):
    """Tunes a grounder by one recipe and measures it on high- and low-quality clips.

    Args:
        grounder: the network; its visual backbones stay frozen under every tuner.
        tuner: what is trained and how: null-space tuning, a baseline, or nothing (zero-shot).
        weights: pretrained weights of the grounder (.safetensors), or ``random``, which must be said.
        adapter: a trained adapter of the same tuner (.safetensors), to test it.
        loss: the grounding objective.
        optimizer: of the trainable parameters.
        warmup_steps: steps over which the learning rate rises linearly before it falls as a cosine to zero.
        lambda_hq: weight of what is lost on HQ in the adaptation score, eq. (8).
        baseline: ``results.json`` of the zero-shot run, against which the adaptation score is logged.
    """

    def __init__(
        self,
        grounder: Grounder,
        tuner: Tuner,
        *,
        weights: Literal["random"] | Path,
        adapter: Path | None = None,
        loss: GroundingLoss | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 0,
        lambda_hq: float = 1.0,
        baseline: Path | None = None,
    ) -> None:
        super().__init__()
        # Checkpoints hold what the tuner trains; `on_load_checkpoint` is strict about that part.
        self.strict_loading = False
        if weights != "random":
            load_weights(Path(weights), grounder)
        self.grounder = grounder
        self.tuner = tuner
        self.injection = tuner.inject(grounder)
        rank_zero_info(str(self.injection))
        if adapter is not None:
            load_adapter(adapter, grounder, tuner)
        self.loss = loss or GroundingLoss()
        self.make_optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.metrics = GroundingMetrics(
            baseline=None if baseline is None else _read_metrics(baseline), lambda_hq=lambda_hq
        )

    def forward(self, batch: Batch) -> GroundingOutput:
        with self.tuner.conditioned_on(batch.qualities):
            return self.grounder.ground(self._features(batch), batch.frame_mask, batch.queries)

    def train(self, mode: bool = True) -> GroundingModule:
        # Lightning sets every sub-module back to train mode after a validation; what is frozen must not follow,
        # or dropout and batch statistics would change the function that the tuner relies on.
        super().train(mode)
        self.tuner.set_training(self.grounder, mode)
        return self

    def on_fit_start(self) -> None:
        # Lightning leaves modules in the mode that it finds them in.
        self.train()

    def _features(self, batch: Batch) -> BackboneFeatures:
        if batch.features is not None:
            return batch.features
        assert batch.frames is not None
        with torch.no_grad():
            return self.grounder.encode(batch.frames, batch.frame_mask, batch.frame_sizes)

    # --- training ---------------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        output = self(batch)
        terms = self.loss(output, batch)
        total = self.loss.total(terms)
        self._log_terms("train", terms, batch)
        self.log("train/grounding", total.detach(), batch_size=len(batch))
        # Eq. (6): L = L_ground + lambda_router * L_router + lambda_reg * L_reg
        for name, value in self.tuner.auxiliary_losses(batch.qualities).items():
            total = total + self.tuner.loss_weights[name] * value
            self.log(f"train/{name}", value.detach(), batch_size=len(batch))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        return total

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return self.tuner.trainable_parameters(self.grounder)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = self.trained_parameters()
        if not parameters:
            raise ValueError(
                f"{type(self.tuner).__name__} trains nothing, so there is nothing to fit; run `test`, or choose "
                "another tuner with --config experiments/tuner/NAME.yaml"
            )
        optimizer = self.make_optimizer(parameters)
        total_steps = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return (step + 1) / self.warmup_steps
            done = (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_index: int) -> dict[str, tuple[Tube, ...]]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> dict[str, tuple[Tube, ...]]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, stage: str) -> dict[str, tuple[Tube, ...]]:
        output = self(batch)
        self._log_terms(stage, self.loss(output, batch), batch)
        tubes = decode_tubes(output, batch.clips)
        self.metrics.update(tubes, batch.clips)
        return {"tubes": tubes}

    def on_validation_epoch_start(self) -> None:
        self.metrics.reset()

    def on_test_epoch_start(self) -> None:
        self.metrics.reset()

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.metrics.compute().items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.metrics.compute().items()})

    def _log_terms(self, stage: str, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """The last decoder stage's terms, by quality."""
        for quality in Quality:
            members = batch.qualities == quality
            count = int(members.sum())
            if count:
                values = {f"{stage}/{quality.name}/{name}": term[-1, members].mean() for name, term in terms.items()}
                self.log_dict(
                    {name: value.detach() for name, value in values.items()},
                    on_step=stage == "train",
                    on_epoch=stage != "train",
                    batch_size=count,
                    sync_dist=stage != "train",
                )

    # --- resuming ---------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        self.check_backbones(getattr(datamodule, "cached_backbones", None))

    def check_backbones(self, cached: str | None) -> None:
        """Refuse features that other backbones made; ``cached`` is those backbones' fingerprint, None without a cache.

        Raises:
            ValueError: they are not this grounder's.
        """
        if cached is not None and cached != (own := self.backbone_fingerprint()):
            raise ValueError(
                f"the cached features were made by backbones {cached[:12]}, but this grounder's are {own[:12]}; "
                "build the cache again with `python -m stvg_nst cache`, or set --data.init_args.features null"
            )

    def backbone_fingerprint(self) -> str:
        return modules_fingerprint(self.grounder.backbones())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self._tuned_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        expected, found = self._tuned_names(), set(checkpoint["state_dict"])
        if expected != found:
            different = ", ".join(sorted(expected ^ found)[:5])
            raise ValueError(
                f"the checkpoint holds {len(found)} tensors but {type(self.tuner).__name__} has {len(expected)}; "
                f"the first that differ: {different}; resume with the configuration of the interrupted run"
            )

    def _tuned_names(self) -> set[str]:
        """What is trained, and the bases that it is relative to: a second decomposition might give others."""
        return {f"grounder.{name}" for name in adapter_state(self.grounder)}


def _read_metrics(path: Path) -> dict[str, float]:
    try:
        metrics = json.loads(path.read_text())["metrics"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"baseline '{path}' is no results.json of a finished run: {error!r}") from error
    return {name: float(value) for name, value in metrics.items()}
