"""What a command has computed stands before it is shown, so that what fails in showing it loses nothing."""

from __future__ import annotations

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stvg_nst import __main__, evaluation
from stvg_nst.report import folder, sheet
from stvg_nst.results.results_file import ResultsFileError
from tests.stvg_nst.report.test_certificate import CERTIFICATE
from tests.stvg_nst.report.test_folder import write_run


def closed_pipe(*arguments: Any, **options: Any) -> Any:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_an_evaluation_is_written_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tube = {"item_id": "a", "start": 0, "stop": 1, "boxes": [[0, 0, 8, 8]]}
    truth, answers = tmp_path / "ground_truth.json", tmp_path / "predictions.json"
    true = {**tube, "sentence_type": "declarative", "conditions": ["HQ"]}
    truth.write_text(evaluation.render_ground_truth("D", "test", [true]))
    answers.write_text(evaluation.render_predictions("M", [{**tube, "condition": "HQ"}]))
    monkeypatch.setattr(sheet, "print_sheet", closed_pipe)
    numbers, table = tmp_path / "numbers.json", tmp_path / "table.md"
    with pytest.raises(BrokenPipeError):
        __main__._evaluate([str(answers), str(truth), "--json", str(numbers), "--markdown", str(table)])
    assert json.loads(numbers.read_text()) and table.read_text()


def test_a_report_is_written_before_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", "ZeroShot", 40)
    monkeypatch.setattr(folder, "_print", closed_pipe)
    with pytest.raises(BrokenPipeError):
        __main__._report([str(tmp_path), "--markdown", str(tmp_path / "table.md")])
    assert "ZeroShot" in (tmp_path / "table.md").read_text()


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """`certify` without a model; the runs that it was asked to measure."""
    measured: list[Path] = []

    def certify(run: Path, **options: Any) -> Any:
        measured.append(run)
        return replace(CERTIFICATE, run=str(run))

    monkeypatch.setattr("stvg_nst.cli.finished_run", lambda run: {})
    monkeypatch.setattr("stvg_nst.cli.CertifyCLI", lambda **options: SimpleNamespace(certify=certify))
    monkeypatch.setattr(sys, "argv", ["stvg_nst"])
    return measured


def test_a_certificate_needs_no_dashboard(
    tmp_path: Path, certified: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter", closed_pipe)
    run = write_run(tmp_path / "run", "NullSpaceTuning", 40).parent
    assert __main__._certify([str(run)]) == 0
    assert caplog.messages == [
        f"left out the certificate in TensorBoard, '{run}', which the run does without: [Errno 32] Broken pipe"
    ]
    assert json.loads((run / "certificate.json").read_text())["gate"] == "soft"
    assert json.loads((run / "results.json").read_text())["certificate"]["gate"] == "soft"


def test_damaged_results_are_told_before_a_certificate_is_measured(tmp_path: Path, certified: list[Path]) -> None:
    (tmp_path / "results.json").write_text('{"schema": 1,')
    with pytest.raises(ResultsFileError, match="is not JSON"):
        __main__._certify([str(tmp_path)])
    assert certified == []
