from __future__ import annotations

import errno
import logging
import re
from typing import Any

import pytest
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
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


def test_every_run_brings_the_page_along_that_compares_runs(run: Any) -> None:
    run.fit(NullSpaceMonitor(every_n_steps=1), logger=Dashboard(str(run.folder / "tensorboard")))
    events = run.events()
    (tag,) = [tag for tag in events.Tags()["tensors"] if "custom_scalars" in tag]
    layout = Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag for category in layout.category for chart in category.chart}
    logged = events.Tags()["scalars"]
    for title in ("LQ: what is restored", "HQ: what is forgotten", "AUROC, all kinds", "AUROC by kind of degradation"):
        found = [tag for tag in logged if any(re.search(pattern, tag) for pattern in charts[title])]
        assert found, f"nothing is shown in '{title}'"
        assert not any("declarative" in tag for tag in found)
