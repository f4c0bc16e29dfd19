from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from torch.utils.data import Dataset

from datamodules.clips import start_worker
from datamodules.loaders import TrainingLoader, load_batches
from datamodules.quality import Draw, MixedQualityPlan
from datamodules.samplers import TrainingSampler

CLIPS = [f"clip-{index}" for index in range(12)]


class Indices(Dataset[int]):
    def __getitem__(self, draw: Draw) -> int:
        return draw.index


class Shown(list[int]):
    def share_memory_(self) -> Shown:
        return self


def make_loader(workers: int, dealt: list[int]) -> tuple[TrainingLoader, TrainingSampler]:
    plan = MixedQualityPlan(0, mixed=True, variants=None, kernels="relative")
    sampler = TrainingSampler(plan, CLIPS, seed=3, rank=0, world_size=1, batch_size=3, dealt=lambda: dealt[0])
    loader = load_batches(
        Indices(), Shown, batch_size=3, sampler=sampler, num_workers=workers, batch_bytes=0, persistent=True
    )
    assert isinstance(loader, TrainingLoader)
    return loader, sampler


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_left_of_an_epoch_is_what_would_have_followed(workers: int) -> None:
    whole, sampler = make_loader(0, [0])
    sampler.set_epoch(2)
    batches = list(whole)
    assert len(batches) == 4

    dealt = [0]
    loader, sampler = make_loader(workers, dealt)
    iterator = iter(loader)  # Lightning does so before it knows where the fit stands
    sampler.set_epoch(2)
    dealt[0] = 6
    assert list(iterator) == batches[2:]
    dealt[0] = 0
    assert list(loader) == batches, "the next epoch is whole"
    assert len(loader) == 4


def test_an_epoch_is_planned_once_however_many_steps_ask_for_their_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """To plan it takes as long as the training set is large."""
    planned: list[int] = []
    plan_epoch = MixedQualityPlan.training

    def plan(self: MixedQualityPlan, clip_ids: Sequence[str], *, seed: int, epoch: int) -> tuple[Draw, ...]:
        planned.append(epoch)
        return plan_epoch(self, clip_ids, seed=seed, epoch=epoch)

    monkeypatch.setattr(MixedQualityPlan, "training", plan)
    loader, sampler = make_loader(0, [0])
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        dealt = [sampler.dealt_in(range(batch, batch + 1)) for batch in range(4)]
        assert [[draw.index for draw in batch] for batch in dealt] == list(loader)
    assert planned == [0, 1]


def _work(path: Path) -> None:
    start_worker(0)
    path.touch()
    time.sleep(60)


@pytest.mark.parametrize(("platform", "outlives"), [(sys.platform, True), ("darwin", False)])
def test_a_worker_outlives_the_signal_of_others_and_not_that_of_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, outlives: bool
) -> None:
    """On macOS nobody says whose signal it is: what must not happen there is that none ends it."""
    monkeypatch.setattr(sys, "platform", platform)
    worker = multiprocessing.get_context("fork").Process(target=_work, args=(tmp_path / "up",), daemon=True)
    worker.start()
    while not (tmp_path / "up").exists():
        time.sleep(0.01)
    subprocess.run([sys.executable, "-S", "-c", f"import os; os.kill({worker.pid}, {int(signal.SIGTERM)})"], check=True)
    worker.join(0.2 if outlives else 10)
    assert worker.is_alive() is outlives
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == (0 if outlives else -signal.SIGTERM)
