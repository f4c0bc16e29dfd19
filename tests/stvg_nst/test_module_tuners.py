"""What the LightningModule does for a tuner between two batches, in fits of a grounder of a hundred parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stvg_nst.losses import GroundingLoss
from stvg_nst.models.base import Grounder
from stvg_nst.module import GroundingModule
from stvg_nst.tuning import AdaLoRA, FlyLoRA, LayerReport, LoRA, TunedLinear, Tuner, adapter_state
from stvg_nst.types import BackboneFeatures, Batch, ClipInfo, GroundingOutput, Quality, Tube


class TinyGrounder(Grounder):
    """Answers from the mean colour of each frame."""

    width = 8

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.colours = nn.Linear(3, 8)
            self.head = nn.Linear(8, 8)

    def backbones(self) -> tuple[nn.Module, ...]:
        return ()

    def objective(self) -> GroundingLoss:
        return GroundingLoss()

    def encode(self, frames: Tensor, frame_mask: Tensor, frame_sizes: Sequence[tuple[int, int]]) -> BackboneFeatures:
        return BackboneFeatures(frames, frames, torch.ones(len(frames), *frames.shape[-2:], dtype=torch.bool))

    def ground(self, features: BackboneFeatures, frame_mask: Tensor, queries: Sequence[str]) -> GroundingOutput:
        out = self.head(self.colours(features.appearance.mean(dim=(3, 4))).relu())[None]
        return GroundingOutput(
            boxes=out[..., :4].sigmoid(),
            confidence=out[..., 4].sigmoid(),
            start_end=out[..., 5:7],
            actioness=out[..., 7],
            frame_mask=frame_mask,
        )


def make_batch(seeds: list[int]) -> Batch:
    """Clips of 4 frames, drawn from their seeds, with the target on the two in the middle."""
    clips, frames = [], []
    for seed in seeds:
        frames.append(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed)))
        target = Tube(1, 3, torch.tensor([[1.0, 1.0, 5.0, 5.0]] * 2))
        clips.append(
            ClipInfo(
                item_id=f"{seed}",
                query="who moves",
                sentence_type="interrogative",
                quality=Quality.HQ,
                degradation=None,
                frame_ids=(0, 1, 2, 3),
                target=target,
                native_size=(8, 8),
                native_length=4,
                fps=4.0,
                video=f"{seed}.mp4",
            )
        )
    inside = torch.tensor([[False, True, True, False]] * len(seeds))
    return Batch(
        clips=tuple(clips),
        frames=torch.stack(frames),
        features=None,
        frame_mask=torch.ones(len(seeds), 4, dtype=torch.bool),
        frame_sizes=((2, 2),) * len(seeds),
        boxes=inside[..., None] * torch.tensor([0.375, 0.375, 0.5, 0.5]),
        inside=inside,
        qualities=torch.zeros(len(seeds), dtype=torch.int64),
    )


def fit(tuner: Tuner, folder: Path, *, ckpt_path: Path | None = None, **options: Any) -> GroundingModule:
    """Two epochs of 6 batches of 2 clips."""
    module = GroundingModule(TinyGrounder(), tuner, weights="random")
    loader = DataLoader(list(range(12)), batch_size=2, collate_fn=make_batch)
    options.setdefault("callbacks", [ModelCheckpoint(folder, save_last=True)])
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return module


def test_a_fit_leaves_the_run_s_seed_to_what_is_built_behind_it(tmp_path: Path) -> None:
    torch.manual_seed(3)
    drawn = []
    for _ in range(2):
        tuner = LoRA(["head"], rank=2)
        tuner.inject(grounder := TinyGrounder())
        drawn.append(adapter_state(grounder))
        fit(LoRA(["head"], rank=2), tmp_path)
    assert torch.initial_seed() == 3
    assert all(torch.equal(value, drawn[1][name]) for name, value in drawn[0].items())


@dataclass
class RecordingTuner(Tuner):
    """Trains the head itself, and writes down when it is called and whether the gradients are there."""

    calls: list[tuple[int, int]] = field(default_factory=list, init=False)
    restored: Mapping[str, Tensor] = field(default_factory=dict, init=False)

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Linear, TunedLinear], tuple[LayerReport, ...]]:
        return {}, ()

    def trainable_parameters(self, grounder: nn.Module) -> list[nn.Parameter]:
        return [parameter.requires_grad_(True) for parameter in grounder.get_submodule("head").parameters()]

    def after_step(self, grounder: nn.Module, step: int, total_steps: int) -> None:
        assert all(parameter.grad is not None for parameter in self.trainable_parameters(grounder))
        self.calls.append((step, total_steps))

    def training_state(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(len(self.calls))}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        self.restored = state


class PowerFailure(lightning.Callback):
    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise InterruptedError


@pytest.mark.parametrize(("accumulated", "steps"), [(1, 12), (4, 4)])  # 6 batches are steps of 4 and of 2
def test_a_tuner_is_called_once_after_each_step_of_the_optimiser(tmp_path, accumulated, steps):
    tuner = RecordingTuner()
    fit(tuner, tmp_path, accumulate_grad_batches=accumulated)
    assert tuner.calls == [(step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize(("max_steps", "steps"), [(-1, 9), (7, 7)])
def test_steps_are_counted_ahead_where_their_batches_change(tmp_path, max_steps, steps):
    tuner, changing = RecordingTuner(), GradientAccumulationScheduler({1: 2})  # 6 steps, and 3
    fit(tuner, tmp_path, callbacks=[changing], max_steps=max_steps)
    assert tuner.calls == [(step, steps) for step in range(1, steps + 1)]


def interrupted(tuner: Tuner, folder: Path, **options: Any) -> Path:
    """The checkpoint of a fit that breaks off after its first epoch."""
    callbacks = [ModelCheckpoint(folder, save_last=True), PowerFailure()]
    with pytest.raises(InterruptedError):
        fit(tuner, folder, callbacks=callbacks, **options)
    return folder / "last.ckpt"


def test_a_resumed_tuner_counts_on_and_has_its_state(tmp_path):
    tuner = RecordingTuner()
    fit(tuner, tmp_path, ckpt_path=interrupted(RecordingTuner(), tmp_path))
    assert tuner.restored == {"steps": torch.tensor(6)}
    assert tuner.calls == [(step, 12) for step in range(7, 13)]


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaLoRA(["head"], rank=4, interval=2, seed=0),
        lambda: FlyLoRA(["head"], rank=8, seed=0),
        lambda: LoRA(["head"], rank=4, dropout=0.5, seed=0),
    ],
    ids=["adalora", "flylora", "dropout"],
)
def test_an_interrupted_fit_goes_on_to_the_same_adapter(tmp_path, make, accumulated):
    def seeded(action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        torch.manual_seed(0)  # as --seed_everything does before every fit
        return action(make(), *arguments, accumulate_grad_batches=accumulated, **options)

    whole = seeded(fit, tmp_path / "whole")
    checkpoint = seeded(interrupted, tmp_path)
    halves = seeded(fit, tmp_path, ckpt_path=checkpoint)
    expected, found = (adapter_state(module.grounder) for module in (whole, halves))
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name, value in whole.tuner.diagnostics().items():
        assert torch.equal(halves.tuner.diagnostics()[name], value)


def test_adalora_ends_a_fit_within_its_budget(tmp_path):
    module = fit(AdaLoRA(["head"], rank=4, interval=2), tmp_path, accumulate_grad_batches=2)
    assert adapter_state(module.grounder)["head.peft_layer.lora_E.default"].count_nonzero() == 4


def test_the_checkpoint_of_another_method_is_refused(tmp_path):
    checkpoint = interrupted(LoRA(["head"], rank=4), tmp_path)
    with pytest.raises(ValueError, match=r"the checkpoint was made by .*LoRA, got .*AdaLoRA; load it with the former"):
        fit(AdaLoRA(["head"], rank=4), tmp_path, ckpt_path=checkpoint)


def test_a_checkpoint_is_not_resumed_with_other_options_or_over_other_weights(tmp_path):
    checkpoint = interrupted(LoRA(["head"], rank=4, alpha=8), tmp_path)
    with pytest.raises(ValueError, match="the checkpoint does not fit this model in its options: 'alpha': expected 8"):
        fit(LoRA(["head"], rank=4, alpha=2), tmp_path, ckpt_path=checkpoint)
    content = torch.load(checkpoint, weights_only=True)
    torch.save(content | {"adapter": content["adapter"] | {"frozen": "another"}}, checkpoint)
    with pytest.raises(ValueError, match="frozen beside the tuned layers: expected fingerprint another, got"):
        fit(LoRA(["head"], rank=4, alpha=8), tmp_path, ckpt_path=checkpoint)
    content.pop("adapter")
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match="does not say which method and which frozen weights it belongs to"):
        fit(LoRA(["head"], rank=4, alpha=8), tmp_path, ckpt_path=checkpoint)
