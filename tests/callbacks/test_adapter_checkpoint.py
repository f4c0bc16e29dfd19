from __future__ import annotations

import re
from typing import Any

import lightning
import pytest
import torch
from safetensors.torch import load_file

from callbacks import AdapterCheckpoint
from stvg_nst.results.run_folder import RunFile


class Crash(lightning.Callback):
    """Ends the fit after its first validation, as a full disk or a lost machine would."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        raise OSError("no space left")


def test_finished_fit_leaves_the_trained_adapter(run: Any) -> None:
    run.fit(AdapterCheckpoint())
    saved = load_file(run.folder / RunFile.ADAPTER)
    trained = {name: value for name, value in run.module.grounder.named_parameters() if value.requires_grad}
    assert saved.keys() == trained.keys()
    for name, value in trained.items():
        torch.testing.assert_close(saved[name], value.detach(), rtol=0, atol=0)


def test_interrupted_fit_leaves_only_the_last_validated_adapter(run: Any) -> None:
    with pytest.raises(OSError, match="no space left"):
        run.fit(AdapterCheckpoint(), Crash())
    assert (run.folder / RunFile.ADAPTER_LAST).exists()
    assert not (run.folder / RunFile.ADAPTER).exists()


def test_a_fit_that_a_time_limit_has_cut_is_not_finished(run: Any) -> None:
    with pytest.warns(UserWarning, match=r"ended after 0 steps, before all .*; go on from its last checkpoint"):
        run.fit(AdapterCheckpoint(), max_time={"seconds": 0})
    assert not (run.folder / AdapterCheckpoint.FINISHED).exists()


def test_sanity_check_and_test_write_nothing(run: Any) -> None:
    run.fit(AdapterCheckpoint(), max_steps=0)
    assert not (run.folder / RunFile.ADAPTER_LAST).exists()
    (run.folder / RunFile.ADAPTER).unlink()
    run.test(AdapterCheckpoint())
    assert not list(run.folder.glob("*.safetensors"))


def test_rehearsal_writes_nothing(run: Any) -> None:
    run.fit(AdapterCheckpoint(), fast_dev_run=True)
    assert not list(run.folder.glob("*.safetensors"))


def test_finished_run_is_not_fitted_again(run: Any) -> None:
    run.fit(AdapterCheckpoint())
    path = run.folder / RunFile.ADAPTER
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=re.escape(f"'{path}' is there from a finished run; choose another")):
        run.fit(AdapterCheckpoint())
    assert path.read_bytes() == before

    run.fit(AdapterCheckpoint(overwrite=True))
    assert path.read_bytes() != before
