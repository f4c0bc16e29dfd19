"""What the LightningModule does for a router: it keeps labels out of evaluations, and keeps what the router learned."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from stvg_nst.module import GroundingModule
from stvg_nst.tuning import GatedAdapter, GatedLoRA, LoRA, NullSpaceTuning, Switch
from stvg_nst.tuning.nst import NullSpaceLinear
from stvg_nst.tuning.nst.router import shared_router
from stvg_nst.types import Batch, Quality, QualityBatch
from tests.stvg_nst.test_twin import TARGETS, batch, features, grounder  # noqa: F401 (a fixture)

OPTIONS = {"rank": 4, "retrieval_width": 8, "heads": 1, "router": "shared", "gate_training": "label"}


@pytest.mark.parametrize("gate", ["soft", "hard"])
@pytest.mark.parametrize("kind", [NullSpaceTuning, GatedAdapter])
def test_other_labels_change_no_tube_and_no_verdict(grounder, kind, gate):  # noqa: F811
    module = GroundingModule(grounder, kind(TARGETS, gate=gate, **OPTIONS), weights="random").eval()
    for layer in grounder.modules():
        if isinstance(layer, NullSpaceLinear):
            torch.nn.init.normal_(layer.unit.row_head.outer.weight)
    shown = batch(Quality.HQ, Quality.LQ, Quality.LQ, frames=4)
    with torch.no_grad():
        answers = [module._evaluate(replace(shown, qualities=q)) for q in (shown.qualities, 1 - shown.qualities)]
    (one, other) = answers
    assert one["verdicts"] == other["verdicts"] and one["verdicts"] is not None
    for tube, again in zip(one["tubes"], other["tubes"], strict=True):
        assert (tube.start, tube.stop) == (again.start, again.stop) and torch.equal(tube.boxes, again.boxes)


@pytest.mark.parametrize(
    "tuner",
    [
        lambda: NullSpaceTuning(TARGETS, **OPTIONS),
        lambda: GatedAdapter(TARGETS, **OPTIONS),
        lambda: GatedLoRA(TARGETS, rank=4, heads=1),
        lambda: Switch(["encoder"], heads=1),
    ],
    ids=["nst", "gated_adapter", "gated_lora", "switch"],
)
def test_labels_are_the_gates_of_training_behind_a_validation_too(grounder, tuner, tmp_path: Path) -> None:  # noqa: F811
    module, gates = GroundingModule(grounder, tuner(), weights="random"), []

    class Watching(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *batch: Any) -> None:
            found = [value for name, value in module.tuner.diagnostics().items() if name.startswith("gate/")]
            gates.append(torch.stack(found).unique(dim=0).tolist())

    fit(module, Validated(), tmp_path, limit_val_batches=1, callbacks=[Watching()])
    assert gates == [[[0.0, 1.0]]] * 2, "an HQ and an LQ clip, in both epochs"


def test_a_checkpoint_of_before_there_were_thresholds_is_resumed(grounder):  # noqa: F811
    module = GroundingModule(grounder, NullSpaceTuning(TARGETS, **OPTIONS), weights="random")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    del checkpoint["state_dict"]["grounder.reference_point.router.threshold"]
    module.on_load_checkpoint(checkpoint)
    del checkpoint["state_dict"]["grounder.reference_point.router.router.mlp.inner.weight"]
    with pytest.raises(ValueError, match=r"the first that differ: grounder\.reference_point\.router\.router"):
        module.on_load_checkpoint(checkpoint)


class Shown(lightning.LightningDataModule):
    """Two clips to train on, and four clean ones to validate on, of which the last two are one clip."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([batch(Quality.HQ, Quality.LQ)], batch_size=None)

    def clean_validation_loader(self) -> list[Batch]:
        shown = batch(*[Quality.HQ] * 4, seed=7)
        names = ("a", "b", "c", "c")
        clips = tuple(replace(clip, video=name) for clip, name in zip(shown.clips, names, strict=True))
        return [replace(shown, clips=clips)]


class Validated(Shown):
    def val_dataloader(self) -> DataLoader[Batch]:
        return self.train_dataloader()


def fit(module: GroundingModule, data: Shown, folder: Path, **options: Any) -> None:
    options = {"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=data)


def test_the_end_of_a_fit_sets_the_threshold_by_clean_clips_of_the_validation(
    grounder,  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tuner = NullSpaceTuning(TARGETS, gate="hard", false_alarms=0.5, **OPTIONS)
    module, data = GroundingModule(grounder, tuner, weights="random"), Shown()
    with caplog.at_level(logging.INFO):
        fit(module, data, tmp_path)
    (clean,) = data.clean_validation_loader()
    module.eval()(clean)
    logits = tuner.opening_logits()
    a, b, c = (*logits[:2].tolist(), logits[2:].max().item())
    # Of three clips, one of two is one: half of (3 + 1) are two, the new one and the highest.
    assert shared_router(grounder).threshold.item() == pytest.approx(sorted((a, b, c))[1], abs=1e-6)
    assert "1 of 3 clean clips open it, and a new one with a probability of at most 50.00%" in caplog.text


def test_a_fit_that_is_not_finished_sets_no_threshold(grounder, tmp_path: Path) -> None:  # noqa: F811
    module = GroundingModule(grounder, NullSpaceTuning(TARGETS, false_alarms=0.5, **OPTIONS), weights="random")
    stop = lightning.pytorch.callbacks.LambdaCallback(
        on_train_batch_end=lambda trainer, *_: setattr(trainer, "should_stop", True)
    )
    fit(module, Shown(), tmp_path, max_steps=3, callbacks=[stop])
    assert shared_router(grounder).threshold == 0


def test_a_measurement_with_a_gate_that_no_end_of_a_fit_has_calibrated_says_so(grounder, recwarn) -> None:  # noqa: F811
    tuner = NullSpaceTuning(TARGETS, gate="hard", false_alarms=0.02, **OPTIONS)
    module = GroundingModule(grounder, tuner, weights="random")
    told = []
    for stage, start in (
        ("fit", module.on_validation_start),
        ("validate", module.on_validation_start),
        ("test", module.on_test_start),
    ):
        module._trainer = SimpleNamespace(state=SimpleNamespace(fn=stage))  # type: ignore[assignment]
        start()
        told.append(sum("the hard gate opens above" in str(warning.message) for warning in recwarn))
    assert told == [0, 1, 2]


def test_a_threshold_needs_clean_clips_and_says_so_before_the_first_step(grounder, tmp_path: Path) -> None:  # noqa: F811
    class Without(lightning.LightningDataModule):
        train_dataloader = Shown.train_dataloader

    module = GroundingModule(grounder, NullSpaceTuning(TARGETS, false_alarms=0.5, **OPTIONS), weights="random")
    with pytest.raises(ValueError, match="no data module with `clean_validation_loader`"):
        fit(module, Without(), tmp_path)

    class Empty(Shown):
        def train_dataloader(self) -> DataLoader[Batch]:
            raise AssertionError("a fit that ends in an error must not begin")

        def clean_validation_loader(self) -> list[Batch]:
            return []

    with pytest.raises(ValueError, match="but that split has none; show it at least one"):
        fit(module, Empty(), tmp_path)


STATISTICS = {**OPTIONS, "router_reads": "statistics"}


@pytest.mark.parametrize(
    "tuner",
    [
        lambda: NullSpaceTuning(TARGETS, **STATISTICS),
        lambda: GatedAdapter(TARGETS, **STATISTICS),
        lambda: GatedLoRA(TARGETS, rank=4, heads=1, router_reads="statistics"),
        lambda: Switch(["encoder"], heads=1, router_reads="statistics"),
    ],
    ids=["nst", "gated_adapter", "gated_lora", "switch"],
)
def test_extra_clips_teach_the_router_and_nothing_else(grounder, tuner, monkeypatch) -> None:  # noqa: F811
    module = GroundingModule(grounder, tuner(), weights="random")
    monkeypatch.setattr(module, "log", lambda *args, **options: None)
    monkeypatch.setattr(module, "log_dict", lambda *args, **options: None)
    module.eval()  # without dropout both steps are the same but for the extra clips
    shown, others = batch(Quality.HQ, Quality.LQ, twins=False), features(3, clips=4)
    labels = torch.tensor([0, 1, 0, 1])
    extra = QualityBatch(None, others, torch.ones(4, 3, dtype=torch.bool), (), labels)
    gradients = []
    for given in (None, extra):
        module.zero_grad()
        module.training_step(replace(shown, extra=given), 0).backward()
        gradients.append({name: p.grad.clone() for name, p in grounder.named_parameters() if p.grad is not None})
    moved = {name for name, before in gradients[0].items() if not torch.equal(before, gradients[1][name])}
    assert moved == {f"reference_point.router.{name}" for name, _ in shared_router(grounder).named_parameters()}
    said = shared_router(grounder).of_features(others, extra.frame_mask)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(said, labels.float())
    torch.testing.assert_close(module._extra_loss(extra), expected)


@pytest.mark.parametrize("tuner", [lambda: LoRA(TARGETS), lambda: NullSpaceTuning(TARGETS, **OPTIONS)])
def test_extra_clips_that_nothing_learns_from_are_refused(grounder, tuner, tmp_path: Path) -> None:  # noqa: F811
    data = Shown()
    data.extra_clips = 2
    module = GroundingModule(grounder, tuner(), weights="random")
    with pytest.raises(ValueError, match="extra_clips 2 are for a router that reads statistics, and this"):
        fit(module, data, tmp_path)
