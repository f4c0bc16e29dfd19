from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import nn

from stvg_nst.measuring import measurement_of
from stvg_nst.results.conditions import USUAL, Measurement


class Module(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


def measured(module: lightning.LightningModule, *, device: str = "cpu", precision: str = "32-true") -> Measurement:
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer: Any = SimpleNamespace(strategy=strategy, precision=precision)
    return measurement_of(trainer, module, "single_pass")


def test_a_trainer_of_no_particular_options_measures_as_usual() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert measurement_of(trainer, Module(), "single_pass") == USUAL


@pytest.mark.parametrize(
    ("option", "precision"), [("bf16-mixed", "bf16-mixed"), (32, "32-true"), ("bf16", "bf16-mixed")]
)
def test_precision_is_the_trainers(option: Any, precision: str) -> None:
    trainer = lightning.Trainer(accelerator="cpu", precision=option, logger=False, enable_checkpointing=False)
    assert measurement_of(trainer, Module(), "two_pass") == Measurement(precision, inference="two_pass")


def test_cudnn_rounds_convolutions_unless_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    on_gpu = measured(Module(), device="cuda")
    assert on_gpu == Measurement(float32_convolutions="tf32", device="cuda")
    assert on_gpu.compares_with(USUAL)


def test_tf32_is_seen_however_it_was_asked_for() -> None:
    matmul = torch.backends.cuda.matmul
    try:
        torch.set_float32_matmul_precision("high")
        assert measured(Module(), device="cuda").float32_products == "tf32"
        torch.set_float32_matmul_precision("highest")
        assert measured(Module(), device="cuda").float32_products == "ieee"
        matmul.fp32_precision = "tf32"
        with pytest.raises(RuntimeError):  # the older question is no longer answered
            torch.get_float32_matmul_precision()
        assert measured(Module(), device="cuda").float32_products == "tf32"
    finally:
        matmul.fp32_precision = "none"
    assert measured(Module(), device="cuda").float32_products == "ieee"


def test_other_devices_round_nothing() -> None:
    assert measured(Module(), device="mps") == Measurement(device="mps")


def test_a_compiled_network_is_seen() -> None:
    whole, layer, inside = Module(), Module(), Module()
    whole._compiler_ctx = {}
    layer.layer.compile()
    inside.layer = torch.compile(inside.layer)  # type: ignore[assignment]
    assert [measured(module).compiled for module in (Module(), whole, layer, inside)] == [False, True, True, True]
