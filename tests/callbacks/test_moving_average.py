from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import MovingAverage
from stvg_nst.tuning import AdaLoRA, adapter_state
from tests.stvg_nst.test_module_tuners import fit as fit_grounder


class Counter(lightning.LightningModule):
    """One weight that grows by 1 in each step, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.full((1,), 5.0), requires_grad=False)
        self.seen: list[float] = []

    def training_step(self, batch: Tensor, batch_index: int) -> Tensor:
        return -self.weight.sum()

    def validation_step(self, batch: Tensor, batch_index: int) -> None:
        self.seen.append(self.weight.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=1.0)


class LeaveValidation(lightning.Callback):
    """Writes a checkpoint within the first validation, and ends the fit by a failure."""

    def on_validation_batch_end(self, trainer: lightning.Trainer, *rest: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "last.ckpt")
        raise RuntimeError("left")


def fit(
    folder: Path,
    callback: MovingAverage,
    epochs: int,
    *,
    others: Sequence[lightning.Callback] = (),
    every_n_epochs: int = 1,
    **options: Any,
) -> Counter:
    module, loader = Counter(), DataLoader(torch.zeros(2, 1))
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            callback,
            *others,
            lightning.pytorch.callbacks.ModelCheckpoint(folder, save_last=True, every_n_epochs=every_n_epochs),
        ],
        **options,
    )
    trainer.fit(module, loader, loader, ckpt_path="last" if (folder / "last.ckpt").exists() else None)
    return module


def average(steps: int, decay: float) -> float:
    value = 0.0
    for step in range(1, steps + 1):
        value = decay * value + (1 - decay) * step
    return value


def test_validation_and_the_finished_fit_have_the_average_and_training_goes_on_without(tmp_path: Path) -> None:
    module = fit(tmp_path, MovingAverage(0.5), epochs=2)
    assert module.seen == pytest.approx([average(2, 0.5)] * 2 + [average(4, 0.5)] * 2)
    assert module.weight.item() == pytest.approx(average(4, 0.5))
    assert module.frozen.item() == 5


def test_a_resumed_fit_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    fit(tmp_path, MovingAverage(0.5), epochs=1)
    module = fit(tmp_path, MovingAverage(0.5), epochs=3)
    assert module.seen == pytest.approx([average(4, 0.5)] * 2 + [average(6, 0.5)] * 2)


def test_a_checkpoint_of_the_last_moment_goes_on_from_what_was_trained(tmp_path: Path) -> None:
    """Lightning writes the last checkpoint at the end of the training where none was due before."""
    fit(tmp_path, MovingAverage(0.5), epochs=1, every_n_epochs=5)
    assert torch.load(tmp_path / "last.ckpt")["state_dict"]["weight"].item() == 2


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    module = fit(tmp_path, MovingAverage(0.5), epochs=3, accumulate_grad_batches=2)
    assert module.weight.item() == pytest.approx(average(3, 0.5))


def test_another_configuration_does_not_resume(tmp_path: Path) -> None:
    callback = MovingAverage()
    callback.load_state_dict({"averages": {"other": torch.zeros(1)}, "last_step": 3})
    with pytest.raises(ValueError, match=r"averages 1 parameters, but 1 are trained; .*\['other', 'weight'\]"):
        fit(tmp_path, callback, epochs=1)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decays_are_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"decay must lie in \[0, 1\), got {decay}"):
        MovingAverage(decay)


def test_the_average_is_the_original_s_but_for_shared_heads(shared: Path) -> None:
    rows = json.loads((shared / "cgstvg" / "golden" / "16_ema.json").read_text())["rows"]
    module, trainer, callback = Counter(), SimpleNamespace(global_step=0), MovingAverage()
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]
    module.weight.data.fill_(1)
    for step, shared_head, ordinary in rows:
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step)  # type: ignore[arg-type]
        value = callback.state_dict()["averages"]["weight"].item()
        assert value == pytest.approx(ordinary, rel=1e-4)
        assert 1 - (1 - value) ** 2 == pytest.approx(shared_head, rel=1e-3)


def test_the_average_is_that_of_tubedetr(shared: Path) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / "14_schedules.json").read_text())["ema"]
    module, trainer, callback = Counter(), SimpleNamespace(global_step=0), MovingAverage(golden["decay"])
    module.weight = nn.Parameter(torch.tensor(golden["start"]))
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]
    module.weight.data = torch.tensor(golden["model"])
    for step, expected in enumerate(golden["after_steps"], 1):
        trainer.global_step = step
        callback.on_train_batch_end(trainer, module, None, None, step)  # type: ignore[arg-type]
        assert callback.state_dict()["averages"]["weight"].tolist() == pytest.approx(expected, abs=1e-6 * 4e-4)


def test_a_checkpoint_within_a_validation_holds_what_is_trained(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="left"):
        fit(tmp_path, MovingAverage(0.5), 1, limit_train_batches=2, others=[LeaveValidation()])
    assert torch.load(tmp_path / "last.ckpt")["state_dict"]["weight"].item() == 2.0, "and not its average, 1.25"


def test_a_fit_that_resumes_behind_its_last_step_ends_with_the_average(tmp_path: Path) -> None:
    ended = fit(tmp_path, MovingAverage(0.5), 3)
    again = fit(tmp_path, MovingAverage(0.5), 3)
    assert again.seen == [] and again.weight.item() == ended.weight.item() != 3.0


def test_a_checkpoint_within_a_validation_has_the_trained_value_under_each_name_of_a_parameter() -> None:
    module = lightning.LightningModule()
    module.one, module.other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    module.other.weight = module.one.weight
    nn.init.zeros_(module.one.weight)
    callback, trainer = MovingAverage(0.5), SimpleNamespace(state=SimpleNamespace(fn="fit"), global_step=1)
    callback.on_fit_start(trainer, module)  # type: ignore[arg-type]
    nn.init.ones_(module.one.weight)
    callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore[arg-type]
    callback.on_validation_start(trainer, module)  # type: ignore[arg-type]
    assert module.other.weight.item() == 0.5
    checkpoint = {"state_dict": module.state_dict()}
    callback.on_save_checkpoint(trainer, module, checkpoint)  # type: ignore[arg-type]
    assert {name: value.item() for name, value in checkpoint["state_dict"].items()} == {
        "one.weight": 1,
        "other.weight": 1,
    }


def test_the_average_of_pruned_directions_keeps_to_the_budget(tmp_path: Path) -> None:
    name, callback = "head.peft_layer.lora_E.default", MovingAverage(0.9)
    module = fit_grounder(AdaLoRA(["head"], rank=4, interval=2), tmp_path, callbacks=[callback])
    alive, average = adapter_state(module.grounder)[name], callback.state_dict()["averages"][f"grounder.{name}"]
    assert average.count_nonzero() > 4, "it remembers directions that were pruned"
    assert alive.count_nonzero() == 4
    assert torch.equal(alive[alive != 0], average[alive != 0])
