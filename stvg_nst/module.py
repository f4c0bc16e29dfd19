"""The LightningModule: wires a frozen grounder, a tuner, the objective and the metrics together."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
import torch.distributed as dist
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from stvg_nst.inference import InferenceProtocol, join_passes, join_verdicts, split_passes
from stvg_nst.losses import GroundingLoss
from stvg_nst.measuring import measurement_of
from stvg_nst.metrics import GroundingMetrics, QualityMeans
from stvg_nst.models.base import Grounder
from stvg_nst.models.encoding_store import EncodingStore
from stvg_nst.models.weights import load_weights, modules_fingerprint
from stvg_nst.preflight import (
    clips_for_gate,
    require_comparable,
    require_features_for_encodings,
    require_frames_for_passes,
    require_frozen_fusion,
    require_own_weights,
    require_readable,
    require_taught_by_twin,
    require_tubes,
    require_twins,
    require_use_of_extra_clips,
)
from stvg_nst.results.results_file import load_results
from stvg_nst.schedules import CosineSchedule, Schedule
from stvg_nst.seeding import derive_seed
from stvg_nst.training.accumulation import SampleMeanModule
from stvg_nst.training.divergence import DivergedError
from stvg_nst.training.loop_position import is_finished
from stvg_nst.tuning.adapter import (
    AdapterConfig,
    adapter_state,
    describe_adapter,
    later_tensors,
    load_adapter,
    require_adapter_fit,
)
from stvg_nst.tuning.base import Tuner
from stvg_nst.twin import CleanTwin, twin_distance
from stvg_nst.types import BackboneFeatures, Batch, FusedTokens, GroundingOutput, Quality, QualityBatch, Tube

_say = rank_zero_only(logging.getLogger(__name__).info)


class Answers(TypedDict):
    """What an evaluation step finds: B tubes, and B verdicts of the tuner's router, ``None`` where it has none."""

    tubes: tuple[Tube, ...]
    verdicts: list[float] | None


class GroundingModule(SampleMeanModule):
    """Tunes a grounder by one recipe and measures it on high- and low-quality clips.

    Args:
        grounder: the network; its visual backbones stay frozen, unless full fine-tuning names a part of them.
        tuner: what is trained and how: null-space tuning, a baseline, or nothing (zero-shot).
        weights: pretrained weights of the grounder (.safetensors), or ``random``, which must be said.
        adapter: a trained adapter of the same tuner (.safetensors, or ``hub:user/name``), to test it.
        loss: the grounding objective; by default the one that the grounder was trained by.
        optimizer: of the trainable parameters.
        learning_rates: of parameters by shell-style patterns of their names in the grounder, the first that matches;
            all others have the optimiser's.
        schedule: of the learning rates; by default they rise linearly, then fall as a cosine to zero.
        warmup_steps: of the default schedule, over which the rates rise.
        baseline: ``results.json`` of the zero-shot run, against which the adaptation score is logged; it must have been
            measured on the split that this run measures, in the same precision.
        inference: how a clip is shown to the network in validation and test: at once, or in the two interleaved
            passes of CG-STVG's own evaluation.
        encodings: folder that keeps what the grounder makes of each clip and sentence ahead of its decoders, so that
            it is computed once for all epochs and all runs. For tuners that change the decoders and heads only, and
            for cached features; 4 T M D bytes each, 0.9 MB in the miniature, and never deleted by us.
        twin: weight of the clean twin in the objective: the distance of each training clip's tokens, ahead of the
            decoders, to those that the frozen grounder makes of the same clip in high quality. Clips that are of high
            quality are pulled to their own. It needs ``--data.init_args.twins true``. Of cached features the targets
            are computed once a run, as far as 2 GiB of memory hold them.
        annotated: whether the true tubes of training clips are looked at. Without them the clean twin alone teaches,
            beside the tuner's own losses, and no decoder runs in a training step. What is tuned must then lie ahead of
            the decoders.

    Raises:
        ValueError: the tuner trains something that ``encodings`` takes for frozen, or that nothing would teach without
            annotations; the grounder is not made for this ``inference``; a number is out of range.
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
        learning_rates: dict[str, float] | None = None,
        schedule: Schedule | None = None,
        warmup_steps: int = 0,
        baseline: Path | None = None,
        inference: InferenceProtocol = "single_pass",
        encodings: Path | None = None,
        twin: float = 0.0,
        annotated: bool = True,
    ) -> None:
        super().__init__()
        # Checkpoints hold what the tuner trains; `on_load_checkpoint` is strict about that part.
        self.strict_loading = False
        self.weights = str(weights)
        if weights != "random":
            load_weights(Path(weights), grounder)
        self.grounder = grounder
        self.tuner = tuner
        if twin < 0:
            raise ValueError(f"--model.twin is a weight of at least 0, got {twin}")
        self.twin = twin
        self._clean = CleanTwin(grounder) if twin else None
        self.injection = tuner.inject(grounder)
        if self._clean is not None:
            self._clean.keep_apart(grounder)
        self.annotated = annotated
        if not annotated:
            require_taught_by_twin(grounder, twin)
        self.trains_backbones = any(p.requires_grad for part in grounder.backbones() for p in part.parameters())
        if encodings is not None:
            require_frozen_fusion(grounder, tuner)
            grounder.keep_encodings(EncodingStore(encodings, modules_fingerprint(grounder.fusion())))
        if adapter is not None:
            load_adapter(adapter, grounder, tuner)
        self.loss = loss or grounder.objective()
        self.make_optimizer = optimizer
        self.learning_rates = learning_rates or {}
        self.schedule = schedule or CosineSchedule(warmup_steps)
        if unknown := sorted(set(self.schedule.groups) - set(self.learning_rates)):
            raise ValueError(
                f"{type(self.schedule).__name__} treats {unknown} apart, but the learning rates are of "
                f"{sorted(self.learning_rates)}; give each a rate with --model.learning_rates"
            )
        grounder.require_inference(inference)
        self.inference = inference
        self.baseline = None if baseline is None else load_results(baseline)
        self.metrics = GroundingMetrics(baseline=None if self.baseline is None else self.baseline.metrics)
        self.loss_means = QualityMeans(tuple(self.loss.weights))
        self._loss_before: Tensor | None = None
        self._clean_validation: Iterable[Batch] | None = None

    def forward(self, batch: Batch) -> GroundingOutput:
        return self._ground(self._features(batch), batch)

    def _ground(self, features: BackboneFeatures, batch: Batch) -> GroundingOutput:
        with self.tuner.conditioned_on(batch.qualities):
            return self.grounder.ground(features, batch.frame_mask, batch.queries)

    def train(self, mode: bool = True) -> GroundingModule:
        # Lightning sets every sub-module back to train mode after a validation; what is frozen must not follow,
        # or dropout and batch statistics would change the function that the tuner relies on.
        super().train(mode)
        self.tuner.set_training(self.grounder, mode)
        return self

    def on_fit_start(self) -> None:
        self._fit_seed = torch.initial_seed()
        # Lightning leaves modules in the mode that it finds them in.
        self.train()
        if self._clean is not None:
            self._clean.to(self.device)

    def _features(self, batch: Batch | QualityBatch) -> BackboneFeatures:
        if batch.features is not None:
            return batch.features
        assert batch.frames is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trains_backbones):
            return self.grounder.encode(batch.frames, batch.frame_mask, batch.frame_sizes)

    # --- before a run begins ----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuses here what would fail, or mislead, only when a run is under way.

        Raises:
            ValueError: the run, its data and its baseline do not fit together.
        """
        require_own_weights(str(self.trainer.precision))
        datamodule = getattr(self.trainer, "datamodule", None)
        if self.baseline is not None and datamodule is not None:
            own = measurement_of(self.trainer, self, self.inference)
            require_comparable(self.baseline, datamodule.conditions(stage), own, self.weights, stage)
        if stage == "fit":
            require_twins(datamodule, self.twin)
            require_use_of_extra_clips(datamodule, self.tuner)
            if self.annotated:
                require_tubes(datamodule, "train", "--model.annotated false lets the clean twin alone teach")
            if self.trainer.limit_val_batches:
                require_tubes(datamodule, "val", "--trainer.limit_val_batches 0 measures nothing by them")
            if self.tuner.calibrates_gate:
                self._clean_validation = clips_for_gate(datamodule, self.tuner)
        elif stage in ("validate", "test"):
            measured = "val" if stage == "validate" else getattr(datamodule, "evaluation_split", "test")
            require_tubes(datamodule, measured, "give them one")
        cached = getattr(datamodule, "cached_backbones", None)
        require_features_for_encodings(self.grounder, cached)
        if stage != "fit" or self.trainer.limit_val_batches or self.tuner.calibrates_gate:
            require_frames_for_passes(self.inference, cached)
        if self._clean is not None and cached is not None:
            self._clean.remember()
        self.check_backbones(cached)
        for split, records in getattr(datamodule, "records", {}).items():
            require_readable(self.grounder, split, {record.item_id: record.query for record in records})

    def check_backbones(self, cached: str | None) -> None:
        """Refuse features that other backbones made; ``cached`` is those backbones' fingerprint, None without a cache.

        Raises:
            ValueError: they are not this grounder's, or this grounder's will not stay as they are.
        """
        if cached is not None and self.trains_backbones:
            raise ValueError(
                f"{type(self.tuner).__name__} trains a part of the visual encoders, for which a cache cannot stand in; "
                "set --data.init_args.features null, or leave that part out of --model.tuner.scope"
            )
        if cached is not None and cached != (own := self.backbone_fingerprint()):
            raise ValueError(
                f"the cached features were made by backbones {cached[:12]}, but this grounder's are {own[:12]}; "
                "build the cache again with `python -m stvg_nst cache features`, or set --data.init_args.features null"
            )

    def backbone_fingerprint(self) -> str:
        return modules_fingerprint(self.grounder.backbones())

    # --- calibration ------------------------------------------------------------------------------------------------

    def _calibrate(self) -> None:
        """Show the tuner clean clips of the tuning set, unless an adapter or a checkpoint holds what it took from them.

        Raises:
            ValueError: the data module has no such clips to offer.
        """
        if self.tuner.is_calibrated(self.grounder):
            return
        name, wanted = type(self.tuner).__name__, self.tuner.clean_clips
        clean_loader = getattr(getattr(self.trainer, "datamodule", None), "clean_training_loader", None)
        if clean_loader is None:
            raise ValueError(
                f"{name} calibrates on {wanted} clean clips of the tuning set, but the trainer has no data module with "
                "`clean_training_loader`; fit with one, or load an adapter"
            )
        _say(f"{name} looks at up to {wanted} clean clips of the tuning set")
        self.eval()
        with torch.no_grad():
            self.tuner.calibrate(self.grounder, self._clean_batches(clean_loader(wanted)), self)
        _take_over_from_first_process(adapter_state(self.grounder).values())

    def _clean_batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        for batch in loader:
            assert (batch.qualities == Quality.HQ).all(), "a tuner calibrates on clips in high quality only"
            yield batch.to(self.device)

    # --- training ---------------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Sized, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        # Lightning's checkpoints do not hold the generators: a resumed fit would draw its first epoch's dropout again.
        # The same batch draws the same dropout whichever process it is dealt to: batches are dealt in turn.
        place = batch_idx * self.trainer.world_size + self.global_rank
        torch.manual_seed(derive_seed("dropout", self._fit_seed, self.current_epoch, place, 0))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The objective of a batch, a scalar.

        Raises:
            DivergedError: it is not finite, in this process or in another; what follows could only be worse.
        """
        features = self._features(batch)
        if self.annotated:
            output = self._ground(features, batch)
            terms, fused = self.loss(output, batch), output.fused
            total = self.loss.total(terms)
            self._log_terms(terms, batch)
            self.log("train/grounding", total.detach(), batch_size=len(batch))
        else:
            total = torch.zeros((), device=self.device)
            with self.tuner.conditioned_on(batch.qualities):
                fused = self.grounder.fuse(features, batch.frame_mask, batch.queries)
        if self._clean is not None:
            assert fused is not None, "a grounder with a fusion says its tokens"
            distance = self._twin_distance(self._clean, fused, features, batch)
            self._log_terms({"twin": distance[None]}, batch)
            total = total + self.twin * distance.mean()
        # Eq. (6): L = L_ground + lambda_router * L_router + lambda_reg * L_reg
        for name, value in self.tuner.auxiliary_losses(batch.qualities).items():
            total = total + self.tuner.loss_weights[name] * value
            self.log(f"train/{name}", value.detach(), batch_size=len(batch))
        if batch.extra is not None:
            value = self._extra_loss(batch.extra)
            total = total + self.tuner.loss_weights["router"] * value
            self.log("train/extra", value.detach(), batch_size=len(batch))
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=len(batch))
        if not _finite_in_every_process(total):
            whose = "the loss" if not torch.isfinite(total) else "the loss of another process is not finite; here it"
            raise DivergedError(self._divergence(f"{whose} is {total.item():.4g} at step {self.global_step + 1}"))
        self._loss_before = total.detach()
        return total

    def _extra_loss(self, extra: QualityBatch) -> Tensor:
        """The router's, of clips of which nothing but their quality is known."""
        return self.tuner.extra_loss(self.grounder, self._features(extra), extra.frame_mask, extra.qualities)

    def _twin_distance(self, clean: CleanTwin, fused: FusedTokens, features: BackboneFeatures, batch: Batch) -> Tensor:
        """(B,), of each clip's tokens to those of its high-quality twin."""
        encode: Callable[[Batch], BackboneFeatures] = self._features
        if self.trains_backbones:  # what the tuned encoders say is not what the frozen grounder saw
            encode, features = clean.encode, clean.encode(batch)
        if batch.twins is not None:
            features = features.replaced(batch.qualities.nonzero().squeeze(1), encode(batch.twins))
        target = clean.targets(features, batch.frame_mask, batch.queries)
        return twin_distance(fused, target, batch.frame_mask)

    def on_train_end(self) -> None:
        """No loss follows the last step, which would show what it did to the weights.

        Raises:
            DivergedError: one that was trained is not finite.
        """
        for name, parameter in self.grounder.named_parameters():
            if parameter.requires_grad and not parameter.isfinite().all():
                raise DivergedError(self._divergence(f"'{name}' is not finite after the last step"))

    @torch.no_grad()
    def on_fit_end(self) -> None:
        """Let clean clips set the threshold of a hard gate; by now an average may have replaced what was trained."""
        if self._clean_validation is None or not is_finished(self.trainer):
            return
        mode = self.training
        self.eval().to(self.trainer.strategy.root_device)
        highest: dict[str, float] = defaultdict(lambda: -math.inf)  # by video: its sentences are not independent
        with self.trainer.precision_plugin.forward_context():
            for batch in self._clean_batches(self._clean_validation):
                for part in split_passes(batch, self.inference):
                    self(part)
                    for clip, logit in zip(part.clips, self.tuner.opening_logits().tolist(), strict=True):
                        highest[clip.video] = max(highest[clip.video], logit)
        _say(self.tuner.calibrate_gate(self.grounder, torch.tensor([*highest.values()])))
        self.train(mode).cpu()  # as Lightning leaves it

    def teardown(self, stage: str) -> None:
        if stage == "fit":
            # What is built next in this process draws its initial values from the run's seed, not from a batch's.
            torch.manual_seed(self._fit_seed)

    def _divergence(self, what: str) -> str:
        before = "" if self._loss_before is None else f", after a loss of {self._loss_before.item():.4g}"
        return (
            f"{what}{before}: the training has diverged; lower the rate (--model.optimizer.init_args.lr) or clip the "
            "gradient (--trainer.gradient_clip_val), and begin anew in another folder; where the loss had not grown, "
            "--trainer.detect_anomaly=true names the operation whose gradient is not finite"
        )

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Lightning counts this step only when the hook has returned.
        self.tuner.after_step(self.grounder, self.trainer.global_step + 1, self._total_steps())

    def trained_parameters(self) -> list[torch.nn.Parameter]:
        return self.tuner.trainable_parameters(self.grounder)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # Here the model is restored and on its device, and no optimiser or callback has yet copied what is trained.
        self._calibrate()
        parameters = self.trained_parameters()
        if not parameters:
            raise ValueError(
                f"{type(self.tuner).__name__} trains nothing, so there is nothing to fit; run `test`, or choose "
                "another tuner with --config experiments/tuner/NAME.yaml"
            )
        groups = self._parameter_groups(parameters)
        try:
            optimizer = self.make_optimizer([options for _, options in groups])
        except ValueError as error:  # of PyTorch, whose optimisers check their options when they are built
            raise ValueError(f"--model.optimizer: {error}") from error
        total_steps = self._total_steps()
        self.schedule.warn_of_length(total_steps)
        factors: list[Callable[[int], float]] = [
            partial(self.schedule.factor, pattern, total_steps=total_steps) for pattern, _ in groups
        ]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _parameter_groups(self, parameters: Sequence[torch.nn.Parameter]) -> list[tuple[str, dict[str, Any]]]:
        """Each group's pattern and its options for the optimiser; the rest goes first, by the empty pattern."""
        names: dict[torch.nn.Parameter, list[str]] = defaultdict(list)  # several where it is shared
        for name, parameter in self.named_parameters(remove_duplicate=False):
            names[parameter].append(name.removeprefix("grounder."))
        members: dict[str, list[torch.nn.Parameter]] = {"": [], **{pattern: [] for pattern in self.learning_rates}}
        for parameter in parameters:
            matches = (p for p in self.learning_rates if any(fnmatchcase(name, p) for name in names[parameter]))
            members[next(matches, "")].append(parameter)
        for pattern in self.learning_rates:
            if not members[pattern]:
                raise ValueError(
                    f"learning rate of '{pattern}': no trained parameter has such a name that an earlier pattern "
                    f"does not take; trained are '{names[parameters[0]][0]}' and {len(parameters) - 1} more"
                )
        rates = {pattern: {"lr": rate} for pattern, rate in self.learning_rates.items()}
        return [(pattern, {"params": group, **rates.get(pattern, {})}) for pattern, group in members.items() if group]

    # --- evaluation -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_index: int) -> Answers:
        return self._evaluate(batch)

    def test_step(self, batch: Batch, batch_index: int) -> Answers:
        return self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> Answers:
        outputs, said = [], []
        for part in split_passes(batch, self.inference):
            outputs.append(output := self(part))
            self.loss_means.update(_last_stage(self.loss(output, part)), part.qualities)
            if (verdict := self.tuner.verdicts()) is not None:
                said.append(verdict)
        tubes = join_passes(outputs, batch.clips, self.inference)
        verdicts = join_verdicts(said, batch.clips, self.inference).tolist() if said else None
        self.metrics.update(tubes, batch.clips, verdicts)
        return {"tubes": tubes, "verdicts": verdicts}

    def on_validation_start(self) -> None:
        if self.trainer.state.fn != "fit":  # whose end sets the threshold
            self.tuner.warn_of_uncalibrated_gate(self.grounder)

    def on_test_start(self) -> None:
        self.tuner.warn_of_uncalibrated_gate(self.grounder)

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def _begin_evaluation(self) -> None:
        self.metrics.reset()
        self.loss_means.reset()

    def _log_evaluation(self, stage: str) -> None:
        # Of the same names and values on every process: what any of them has met is exchanged here, and only here.
        values = self.loss_means.compute() | self.metrics.compute()
        self.log_dict({f"{stage}/{name}": value for name, value in values.items()})

    def _log_terms(self, terms: Mapping[str, Tensor], batch: Batch) -> None:
        """The last decoder stage's terms in training, by quality; of rank 0, for no process waits for another here."""
        for quality in Quality:
            members = batch.qualities == quality
            if members.any():
                values = {name: term[members].mean() for name, term in _last_stage(terms).items()}
                self.log_dict(
                    {f"train/{quality.name}/{name}": value.detach() for name, value in values.items()},
                    batch_size=int(members.sum()),
                )

    # --- resuming ---------------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self._tuned_names()
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}
        checkpoint["adapter"] = asdict(describe_adapter(self.grounder, self.tuner))
        checkpoint["tuner"] = self.tuner.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "adapter" not in checkpoint:
            raise ValueError(
                "the checkpoint does not say which method and which frozen weights it belongs to: it is of an older "
                "version, or of another program; begin the fit anew in another --run"
            )
        require_adapter_fit("the checkpoint", AdapterConfig(**checkpoint["adapter"]), self.grounder, self.tuner)
        expected, found = self._tuned_names(), set(checkpoint["state_dict"])
        later = {f"grounder.{name}" for name in later_tensors(self.grounder)}
        if expected - later != found - later:
            different = ", ".join(sorted((expected - later) ^ (found - later))[:5])
            raise ValueError(
                f"the checkpoint holds {len(found)} tensors but {type(self.tuner).__name__} has {len(expected)}; "
                f"the first that differ: {different}; resume with the configuration of the interrupted run"
            )
        self.tuner.load_training_state(checkpoint.get("tuner", {}))

    def _tuned_names(self) -> set[str]:
        """What is trained, and the bases that it is relative to: a second decomposition might give others."""
        return {f"grounder.{name}" for name in adapter_state(self.grounder)}


def _last_stage(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(S, B) -> (B,)."""
    return {name: term[-1] for name, term in terms.items()}


def _finite_in_every_process(loss: Tensor) -> bool:
    """Known to all of them alike: where one alone gave up, the others would wait for its gradients."""
    finite = torch.isfinite(loss.detach()).int()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)


@torch.no_grad()
def _take_over_from_first_process(tensors: Iterable[Tensor]) -> None:
    """Copy the first process's values everywhere: decompositions may differ from one machine to the next."""
    if dist.is_available() and dist.is_initialized():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)
