"""What the module adds to its parts: groups of parameters, and how clips are shown in an evaluation."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn

from stvg_nst.losses import GroundingLoss
from stvg_nst.models.base import Grounder
from stvg_nst.module import GroundingModule
from stvg_nst.schedules import CGSTVGSchedule
from stvg_nst.training.divergence import DivergedError
from stvg_nst.tuning import FullFineTuning, LoRA, Tuner
from stvg_nst.types import BackboneFeatures, Batch, ClipInfo, GroundingOutput, Quality, Tube


class Stub(Grounder):
    """Answers each clip with its whole length, and counts the frames that it is shown."""

    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.head, self.text, self.rest = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
        self.shown: list[int] = []

    def backbones(self) -> tuple[nn.Module, ...]:
        return ()

    def objective(self) -> GroundingLoss:
        return GroundingLoss()

    def encode(self, frames: Tensor, frame_mask: Tensor, frame_sizes: Any) -> BackboneFeatures:
        self.shown.append(frames.shape[1])
        return BackboneFeatures(frames, frames, torch.ones(len(frames), 1, 1, dtype=torch.bool))

    def ground(self, features: BackboneFeatures, frame_mask: Tensor, queries: Any) -> GroundingOutput:
        logits = torch.zeros(1, *frame_mask.shape, 2)
        logits[0, :, 0, 0] = logits[0, :, -1, 1] = 9
        boxes = torch.full((1, *frame_mask.shape, 4), 0.5)
        single = logits[..., 0]
        return GroundingOutput(
            boxes=boxes, start_end=logits, frame_mask=frame_mask, confidence=single, actioness=single
        )


def make(**options: Any) -> GroundingModule:
    tuner = FullFineTuning(scope=("head", "text", "rest"))
    return GroundingModule(Stub(), tuner, weights="random", **options)


def make_batch() -> Batch:
    """One clip of five frames, which a ball fills."""
    clip = ClipInfo(
        item_id="item",
        query="a ball",
        sentence_type="declarative",
        quality=Quality.HQ,
        degradation=None,
        frame_ids=(0, 2, 4, 6, 8),
        target=Tube(0, 9, torch.tensor([[0.0, 0.0, 10.0, 10.0]]).expand(9, 4)),
        native_size=(10, 10),
        native_length=9,
        fps=25.0,
        video="ball.mp4",
    )
    inside = torch.ones(1, 5, dtype=torch.bool)
    frames, boxes = torch.zeros(1, 5, 3, 8, 8), torch.full((1, 5, 4), 0.5)
    return Batch((clip,), frames, None, inside, ((8, 8),), boxes, inside, torch.zeros(1, dtype=torch.long))


def optimiser(module: GroundingModule) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    module._trainer = type("Trainer", (), {"estimated_stepping_batches": 200})()  # type: ignore[assignment]
    configured: Any = module.configure_optimizers()
    return configured["optimizer"], configured["lr_scheduler"]["scheduler"]


class Seen(Stub):
    """Its visual encoder is one of its parts."""

    def backbones(self) -> tuple[nn.Module, ...]:
        return (self.rest,)

    def encode(self, frames: Tensor, frame_mask: Tensor, frame_sizes: Any) -> BackboneFeatures:
        seen = self.rest(frames[..., :2])
        return BackboneFeatures(seen, seen, torch.ones(len(frames), 1, 1, dtype=torch.bool))


@pytest.mark.parametrize(("scope", "trained"), [(("head",), False), (("head", "rest"), True)])
def test_visual_encoders_are_trained_where_they_are_named(scope: tuple[str, ...], trained: bool) -> None:
    module = GroundingModule(Seen(), FullFineTuning(scope=scope), weights="random")
    assert module._features(make_batch()).appearance.requires_grad is trained
    with torch.no_grad():
        assert not module._features(make_batch()).appearance.requires_grad
    own = module.backbone_fingerprint()
    if not trained:
        return module.check_backbones(own)
    with pytest.raises(ValueError, match=r"trains a part of the visual encoders, .*features null"):
        module.check_backbones(own)


def test_parameters_are_grouped_by_the_first_pattern_that_matches() -> None:
    rates = {"text.*": 5e-5, "*.bias": 1e-2}
    groups = optimiser(make(learning_rates=rates))[0].param_groups
    # Rest (two weights), text (weight and bias), biases (of the two others).
    assert [(len(group["params"]), group["initial_lr"]) for group in groups] == [(2, 1e-3), (2, 5e-5), (2, 1e-2)]


def test_a_shared_parameter_has_the_rate_of_any_of_its_names() -> None:
    module = make(learning_rates={"alias.*": 1.0})
    module.grounder.alias = module.grounder.head
    assert [len(group["params"]) for group in optimiser(module)[0].param_groups] == [4, 2]


def test_each_group_follows_the_schedule_under_its_own_name() -> None:
    schedule = CGSTVGSchedule(2, (1,), linear=("text.*",))
    optimizer, scheduler = optimiser(make(learning_rates={"text.*": 1.0}, schedule=schedule))
    rates = []
    for _ in range(151):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx([1e-3, 1.0])
    assert rates[1] == pytest.approx([1e-3, 0.5])
    assert rates[150] == pytest.approx([1e-4, 50 / 198])


def test_a_fit_shorter_than_its_warm_up_says_so() -> None:
    with pytest.warns(UserWarning, match="rise over 300 steps, but the training has 200"):
        optimiser(make(warmup_steps=300))


def test_a_rate_for_nothing_and_a_schedule_of_unknown_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"learning rate of 'txet.\*': no trained parameter has such a name"):
        optimiser(make(learning_rates={"txet.*": 1.0}))
    with pytest.raises(
        ValueError, match=r"CGSTVGSchedule treats \['text.\*'\] apart, but the learning rates are of \[\]"
    ):
        make(schedule=CGSTVGSchedule(2, (1,), linear=("text.*",)))


@pytest.mark.parametrize(("inference", "shown"), [("single_pass", [5]), ("two_pass", [3, 2])])
def test_evaluation_follows_the_named_protocol(
    monkeypatch: pytest.MonkeyPatch, inference: Any, shown: list[int]
) -> None:
    module = make(inference=inference)
    monkeypatch.setattr(module, "log_dict", lambda *args, **options: None)
    (tube,) = module.test_step(make_batch(), 0)["tubes"]
    assert (tube.start, tube.stop) == (0, 9)
    assert module.grounder.shown == shown
    assert module.metrics.compute()["HQ/m_tIoU"] == 100


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_training_that_diverges_is_ended_at_once(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    module = make()
    for log in ("log", "log_dict"):
        monkeypatch.setattr(module, log, lambda *args, **options: None)
    assert torch.isfinite(module.training_step(make_batch(), 0))
    monkeypatch.setattr(type(module.loss), "total", lambda loss, terms: torch.tensor(float(value)))
    with pytest.raises(
        DivergedError, match=rf"the loss is {value} at step 1, after a loss of \d.*--model\.optimizer\.init_args\.lr"
    ):
        module.training_step(make_batch(), 0)


def test_a_last_step_that_ruins_the_weights_is_told() -> None:
    module = make()
    module.on_train_end()
    name, parameter = next((n, p) for n, p in module.grounder.named_parameters() if p.requires_grad)
    with torch.no_grad():
        parameter.view(-1)[-1] = torch.nan
    with pytest.raises(DivergedError, match=rf"'{name}' is not finite after the last step: the training has diverged"):
        module.on_train_end()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_that_turns_the_frozen_weights_is_refused(precision: Any) -> None:
    module = make()
    module.trainer = lightning.Trainer(precision=precision, accelerator="cpu", logger=False)
    with pytest.raises(ValueError, match=rf"--trainer\.precision {precision} .* give bf16-mixed, 16-mixed or 32-true"):
        module.setup("fit")
    module.trainer = lightning.Trainer(precision="bf16-mixed", accelerator="cpu", logger=False)
    module.setup("fit")


def test_a_fit_that_only_a_time_bounds_has_no_schedule() -> None:
    module = make()
    module._trainer = type("Trainer", (), {"estimated_stepping_batches": float("inf")})()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"neither --trainer\.max_epochs nor --trainer\.max_steps bounds them"):
        module.configure_optimizers()


class Fusing(Stub):
    """Joins video and sentence in two of its parts."""

    def fusion(self) -> tuple[nn.Module, ...]:
        return self.text, self.rest


class Data:
    cached_backbones: str | None = None


@pytest.mark.parametrize(
    ("tuner", "name"),
    [(FullFineTuning(scope=("head", "rest")), "rest"), (LoRA(targets=("head", "text"), rank=1, alpha=1), "text")],
)
def test_encodings_of_what_is_tuned_are_refused(tmp_path: Path, tuner: Tuner, name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"{type(tuner).__name__} tunes '{name}' of the grounder, .*--model.encodings"
    ):
        GroundingModule(Fusing(), tuner, weights="random", encodings=tmp_path)


def test_encodings_are_kept_by_the_weights_and_for_cached_features_only(tmp_path: Path) -> None:
    kept = [
        GroundingModule(Fusing(), FullFineTuning(scope=("head",)), weights="random", encodings=tmp_path)
        for _ in range(2)
    ]
    stores = [module.grounder.encodings for module in kept]
    assert stores[0] and stores[1] and stores[0].folder != stores[1].folder  # of two initialisations
    module, data = kept[0], Data()
    module._trainer = type("Trainer", (), {"datamodule": data, "precision": "32-true", "limit_val_batches": 1})()  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"--model.encodings keeps .*--data.init_args.features"):
        module.setup("fit")
    data.cached_backbones = module.backbone_fingerprint()
    module.setup("fit")


def test_two_passes_over_cached_features_are_refused_before_a_run_that_measures() -> None:
    module, data = make(inference="two_pass"), Data()
    data.cached_backbones = module.backbone_fingerprint()
    trainer = SimpleNamespace(datamodule=data, precision="32-true", limit_val_batches=1)
    module._trainer = trainer  # type: ignore[assignment]
    for stage in ("fit", "validate", "test"):
        with pytest.raises(ValueError, match=r"two_pass needs frames, got cached features: .*init_args\.features null"):
            module.setup(stage)
    trainer.limit_val_batches = 0
    module.setup("fit")


def test_a_grounder_that_cannot_keep_encodings_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Stub cannot keep encodings; leave out --model\.encodings"):
        make(encodings=tmp_path)
