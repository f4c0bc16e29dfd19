"""What an optimiser step follows: the gradient that one batch of all its samples would give."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch import Tensor
from torch.utils.data import DataLoader

from stvg_nst.training.accumulation import SampleMeanModule
from tests.ranks import join_ranks, run_ranks

SAMPLES = torch.arange(1.0, 12.0)


class Slope(SampleMeanModule):
    """Its gradient is the mean of the samples, whatever the weight is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight * batch.mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Gradients(lightning.Callback):
    def __init__(self) -> None:
        self.seen: list[float] = []
        self.clipped: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.seen.append(float(module.weight.grad))

    def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
        if module.weight.grad is not None:
            self.clipped.append(float(module.weight.grad))


def fit(folder: Path, batches: Any, *callbacks: lightning.Callback, **options: Any) -> Gradients:
    gradients = Gradients()
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[gradients, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **{"devices": 1, "max_epochs": 2} | options,
    )
    trainer.fit(Slope(), batches)
    return gradients


def means(*steps: slice) -> list[float]:
    return [float(SAMPLES[step].mean()) for step in steps]


@pytest.mark.parametrize(
    ("accumulated", "limit", "steps"),
    [
        (1, None, (slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8), slice(8, 10), slice(10, 11))),
        (4, 5, (slice(0, 8), slice(8, 10))),  # the last step has one batch of four
        (4, None, (slice(0, 8), slice(8, 11))),  # of two batches, one with a single sample
        (6, None, (slice(0, 11),)),
        (99, None, (slice(0, 11),)),
    ],
)
def test_a_step_follows_the_mean_over_its_samples(tmp_path, accumulated, limit, steps):
    loader = DataLoader(SAMPLES, batch_size=2)
    gradients = fit(tmp_path, loader, accumulate_grad_batches=accumulated, limit_train_batches=limit)
    assert gradients.seen == pytest.approx(means(*steps, *steps))


def test_full_windows_of_equal_batches_are_what_lightning_makes_of_them(tmp_path):
    loader = DataLoader(SAMPLES[:9], batch_size=3)
    expected = ((SAMPLES[:3].mean() / 3 + SAMPLES[3:6].mean() / 3) + SAMPLES[6:9].mean() / 3).item()
    assert fit(tmp_path, loader, accumulate_grad_batches=3).seen == [expected, expected]  # to the bit


def test_accumulation_may_change_between_epochs(tmp_path):
    loader = DataLoader(SAMPLES, batch_size=4)
    gradients = fit(tmp_path, loader, GradientAccumulationScheduler({0: 2, 1: 3}))
    assert gradients.seen == pytest.approx(means(slice(0, 8), slice(8, 11), slice(0, 11)))


def test_a_step_that_an_epoch_cannot_fill_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"accumulate_grad_batches 9 is more than .* the 3 batch\(es\) of one epoch"):
        fit(tmp_path, DataLoader(SAMPLES, batch_size=4), accumulate_grad_batches=9)


def test_clipping_sees_the_gradient_that_is_followed(tmp_path):
    loader = DataLoader(SAMPLES, batch_size=2)
    gradients = fit(tmp_path, loader, accumulate_grad_batches=4, gradient_clip_val=5.0, gradient_clip_algorithm="value")
    assert gradients.clipped == pytest.approx([4.5, 5.0, 4.5])  # before the next window begins


# Of rank 0 and rank 1, two windows: of two batches, and of one. Nothing is even.
SHARES = ([SAMPLES[:2], SAMPLES[2:5], SAMPLES[5:6]], [SAMPLES[6:8], SAMPLES[8:9], SAMPLES[9:11]])


@pytest.mark.slow
def test_processes_follow_the_mean_over_the_samples_of_all(tmp_path):
    run_ranks(__file__, tmp_path)
    expected = [torch.cat([*SHARES[0][:2], *SHARES[1][:2]]).mean(), torch.cat([SHARES[0][2], SHARES[1][2]]).mean()]
    for rank in range(2):
        assert torch.load(tmp_path / str(rank)) == pytest.approx([float(mean) for mean in expected])


def _fit_in(rank: int, folder: Path) -> None:
    join_ranks(rank, folder, count=2)
    options = {"accumulate_grad_batches": 2, "max_epochs": 1, "use_distributed_sampler": False}
    gradients = fit(folder, DataLoader(SHARES[rank], batch_size=None), strategy="ddp", devices=2, **options)
    torch.save(gradients.seen, folder / str(rank))


if __name__ == "__main__":
    _fit_in(int(sys.argv[1]), Path(sys.argv[2]))
