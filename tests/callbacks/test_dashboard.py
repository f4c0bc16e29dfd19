from __future__ import annotations

import errno
import logging
from typing import Any

import pytest
from torch.utils.tensorboard import SummaryWriter

from callbacks import Dashboard, HyperparameterSummary, NullSpaceMonitor, PredictionsWriter, ResultsWriter
from stvg_nst.results.run_folder import RunFile


def full_disk(*arguments: Any, **options: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("method", ["add_scalar", "add_histogram", "flush", "close"])
def test_no_run_ends_for_its_dashboard(
    run: Any, method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(SummaryWriter, method, full_disk)
    with caplog.at_level(logging.WARNING):
        run.fit(NullSpaceMonitor(every_n_steps=1), logger=Dashboard(str(run.folder)), max_epochs=2)
        warnings = [message for message in caplog.messages if "left out" in message]
        assert len(warnings) == len(set(warnings)), "each said once"
        assert all("does without: [Errno 28] No space left on device" in message for message in warnings)
        assert warnings
    run.test(ResultsWriter(), PredictionsWriter(), logger=Dashboard(str(run.folder)))
    assert (run.folder / RunFile.RESULTS).is_file()


def test_hyperparameters_are_left_out_where_they_cannot_be_written(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text("seed_everything: 5\n")
    dashboard = Dashboard(str(run.folder))
    assert dashboard.experiment is not None  # the file is open
    monkeypatch.setattr(SummaryWriter, "_get_file_writer", full_disk)
    run.fit(HyperparameterSummary(), logger=dashboard)


def test_what_can_be_written_is_read_by_tensorboard(run: Any) -> None:
    run.fit(logger=Dashboard(str(run.folder / "tensorboard")))
    assert "val/HQ/m_vIoU" in run.events().Tags()["scalars"]
    assert [path.parent for path in run.folder.rglob("events.*")] == [run.folder / "tensorboard"]
