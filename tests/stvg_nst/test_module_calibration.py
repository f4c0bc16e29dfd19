"""How the LightningModule lets a tuner see clean clips, in fits of a grounder of a hundred parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stvg_nst.tuning import LayerReport, TunedLinear, Tuner, adapter_state, load_adapter, save_adapter
from tests.ranks import join_ranks, run_ranks

if TYPE_CHECKING:
    from stvg_nst.module import GroundingModule
    from stvg_nst.types import Batch

RANKS = 2
CLEAN = range(100, 107)


class Shifted(TunedLinear):
    """Adds a trained shift, which starts as a number taken from clean clips."""

    seen: Tensor

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.shift = nn.Parameter(torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.shift


@dataclass
class CalibratedTuner(Tuner):
    """Counts the clean clips, and notes whether the model was in eval mode and without gradients."""

    start: float = 0.5
    calls: list[tuple[int, bool, bool]] = field(default_factory=list, init=False)
    layer: Shifted | None = field(default=None, init=False)

    def _wrap(self, grounder: nn.Module) -> tuple[Mapping[nn.Module, TunedLinear], tuple[LayerReport, ...]]:
        head = grounder.get_submodule("head")
        self.layer = Shifted(head)
        return {head: self.layer}, (LayerReport.of("head", head, "shift"),)  # type: ignore[arg-type]

    @property
    def clean_clips(self) -> int:
        return 5

    def is_calibrated(self, grounder: nn.Module) -> bool:
        assert self.layer is not None
        return bool(self.layer.seen)

    def calibrate(self, grounder: nn.Module, batches: Iterable[Any], forward: Callable[[Any], object]) -> None:
        assert self.layer is not None
        seen = 0
        for batch in batches:
            forward(batch)
            seen += len(batch)
        self.calls.append((seen, not any(module.training for module in grounder.modules()), torch.is_grad_enabled()))
        self.layer.seen.fill_(seen)
        with torch.no_grad():
            self.layer.shift.fill_(self.start)


def make_batch(seeds: Sequence[int]) -> Batch:
    from tests.stvg_nst.test_module_tuners import make_batch

    return make_batch(list(seeds))


class Clips(lightning.LightningDataModule):
    """6 training batches, and clean clips in an order of their own."""

    def __init__(self, **degraded: Tensor) -> None:
        super().__init__()
        self.degraded = degraded

    def train_dataloader(self) -> DataLoader[int]:
        return DataLoader(list(range(12)), batch_size=2, collate_fn=make_batch)  # type: ignore[arg-type]

    def clean_training_loader(self, clips: int) -> DataLoader[int]:
        def collate(seeds: list[int]) -> Batch:
            return replace(make_batch(seeds), **self.degraded)

        return DataLoader(list(CLEAN)[:clips], batch_size=3, collate_fn=collate)  # type: ignore[arg-type]


def make_module(tuner: Tuner, **options: Any) -> GroundingModule:
    from stvg_nst.module import GroundingModule
    from tests.stvg_nst.test_module_tuners import TinyGrounder

    return GroundingModule(TinyGrounder(), tuner, weights="random", **options)


def make_trainer(folder: Path, **options: Any) -> lightning.Trainer:
    options.setdefault("callbacks", [ModelCheckpoint(folder, save_last=True)])
    options.setdefault("max_epochs", 2)
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"devices": 1} | options,
    )


def test_a_tuner_sees_the_clean_clips_that_it_asked_for_once_before_the_first_step(tmp_path):
    shifts = []

    class FirstStep(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            shifts.append(pl_module.tuner.layer.shift.item())

    tuner = CalibratedTuner()
    make_trainer(tmp_path, callbacks=[FirstStep()]).fit(make_module(tuner), datamodule=Clips())
    assert tuner.calls == [(5, True, False)]
    assert shifts[0] == tuner.start != shifts[1]


def test_an_average_starts_from_what_calibration_left(tmp_path):
    from callbacks.moving_average import MovingAverage

    tuner = CalibratedTuner(start=3.0)
    average = MovingAverage(decay=0.9999)
    make_trainer(tmp_path, callbacks=[average], max_steps=1).fit(make_module(tuner), datamodule=Clips())
    assert tuner.layer is not None
    assert tuner.layer.shift.item() == pytest.approx(3.0, abs=1e-3)


def test_a_resumed_fit_and_a_loaded_adapter_are_not_calibrated_again(tmp_path):
    first = make_module(CalibratedTuner())
    make_trainer(tmp_path, max_epochs=1).fit(first, datamodule=Clips())
    save_adapter(tmp_path / "adapter.safetensors", first.grounder, first.tuner)

    resumed = CalibratedTuner()
    make_trainer(tmp_path).fit(make_module(resumed), datamodule=Clips(), ckpt_path=tmp_path / "last.ckpt")
    loaded = make_module(CalibratedTuner(), adapter=tmp_path / "adapter.safetensors")
    make_trainer(tmp_path / "again").fit(loaded, datamodule=Clips())
    for tuner in (resumed, loaded.tuner):
        assert tuner.calls == [] and tuner.layer.seen == 5


def test_no_test_calibrates(tmp_path):
    from tests.stvg_nst.test_module_tuners import TinyGrounder

    module = make_module(CalibratedTuner())
    make_trainer(tmp_path).fit(module, datamodule=Clips())
    save_adapter(tmp_path / "adapter.safetensors", module.grounder, module.tuner)
    tuner, grounder = CalibratedTuner(), TinyGrounder()
    tuner.inject(grounder)
    load_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
    assert tuner.is_calibrated(grounder)
    tested = make_module(CalibratedTuner(), adapter=tmp_path / "adapter.safetensors")
    make_trainer(tmp_path).test(tested, Clips().train_dataloader(), verbose=False)
    assert tested.tuner.calls == []


def test_without_clean_clips_a_fit_says_what_is_missing(tmp_path):
    with pytest.raises(
        ValueError, match=r"CalibratedTuner calibrates on 5 clean clips of the tuning set, but .* no data module"
    ):
        make_trainer(tmp_path).fit(make_module(CalibratedTuner()), Clips().train_dataloader())


def test_degraded_clips_are_no_clean_clips(tmp_path):
    data = Clips(qualities=torch.tensor([0, 1, 0]))
    with pytest.raises(AssertionError, match="high quality only"):
        make_trainer(tmp_path).fit(make_module(CalibratedTuner()), datamodule=data)


@pytest.mark.slow
def test_every_process_ends_with_the_result_of_the_first(tmp_path):
    run_ranks(__file__, tmp_path, count=RANKS)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS))
    assert ours["head.seen"] == theirs["head.seen"] == 5
    assert ours["head.shift"] == theirs["head.shift"] == 0.0


def _fit_rank(rank: int, folder: Path) -> None:
    join_ranks(rank, folder, count=RANKS)
    module = make_module(
        CalibratedTuner(start=float(rank)), optimizer=lambda parameters: torch.optim.SGD(parameters, 0)
    )
    trainer = make_trainer(folder, devices=RANKS, strategy="ddp", max_steps=1, callbacks=[])
    trainer.fit(module, datamodule=Clips())
    torch.save(adapter_state(module.grounder), folder / f"{rank}.pt")


if __name__ == "__main__":
    _fit_rank(int(sys.argv[1]), Path(sys.argv[2]))
