from __future__ import annotations

import errno
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml

from stvg_nst.commands.certify import CertifyCLI, certify, finished_run
from stvg_nst.results.results_file import ResultsFileError
from stvg_nst.tuning import NullSpaceTuning, ZeroShot
from tests.stvg_nst.report.test_certificate import CERTIFICATE
from tests.stvg_nst.report.test_folder import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a finished fit, with what the command line stores of one."""
    model = {"weights": "random", "tuner": {"class_path": "stvg_nst.tuning.NullSpaceTuning"}, "baseline": "gone.json"}
    model["lambda_hq"] = 1.0  # as older fits stored it
    config = {
        "seed_everything": 3,
        "trainer": {"max_epochs": 2},
        "model": model,
        "data": {"class_path": "datamodules.MiniSTVG"},
        "run": "runs/nst",
        "ckpt_path": "last",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "adapter.safetensors").touch()
    return tmp_path


def test_of_a_finished_run_only_what_it_is_made_of_is_read(run: Path) -> None:
    config = finished_run(run)
    assert config.keys() == {"seed_everything", "model", "data"}
    assert config["seed_everything"] == 3
    assert config["model"]["adapter"] == str(run / "adapter.safetensors")
    assert config["model"]["weights"] == "random"
    assert config["model"]["baseline"] is None
    assert "lambda_hq" not in config["model"]


@pytest.mark.parametrize("missing", ["config.yaml", "adapter.safetensors"])
def test_an_unfinished_run_is_refused(run: Path, missing: str) -> None:
    (run / missing).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"there is no '{run / missing}'; fit first")):
        finished_run(run)


def test_a_run_of_another_tuner_has_nothing_to_certify() -> None:
    cli = SimpleNamespace(model=SimpleNamespace(tuner=ZeroShot()), datamodule=None)
    with pytest.raises(ValueError, match="a run of NullSpaceTuning in 'runs/other', got one of ZeroShot"):
        CertifyCLI.certify(cli, Path("runs/other"), split="test", batches=None)


def test_sentences_are_checked_before_a_certificate_is_measured() -> None:
    module = MagicMock(tuner=NullSpaceTuning(targets=["*.linear2"]))
    module.grounder.query_faults = lambda queries: {queries.index("a man"): "is too long"}
    data = MagicMock(records={"val": [SimpleNamespace(item_id="a", query="a man")]})
    with pytest.raises(ValueError, match="1 of the 1 sentences of the val split: 'a' is too long"):
        CertifyCLI.certify(SimpleNamespace(model=module, datamodule=data), Path("run"), split="val", batches=1)


def closed_pipe(*arguments: Any, **options: Any) -> Any:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.fixture
def certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """`certify` without a model; the runs that it was asked to measure."""
    measured: list[Path] = []

    def measure(run: Path, **options: Any) -> Any:
        measured.append(run)
        return replace(CERTIFICATE, run=str(run))

    monkeypatch.setattr("stvg_nst.commands.certify.finished_run", lambda run: {})
    monkeypatch.setattr("stvg_nst.commands.certify.CertifyCLI", lambda *given: SimpleNamespace(certify=measure))
    return measured


def test_a_certificate_needs_no_dashboard(
    tmp_path: Path, certified: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stvg_nst.commands.certify.SummaryWriter", closed_pipe)
    run = write_run(tmp_path / "run", "NullSpaceTuning", 40).parent
    assert certify([str(run)], "certify") == 0
    assert caplog.messages == [
        f"left out the certificate in TensorBoard, '{run}', which the run does without: [Errno 32] Broken pipe"
    ]
    assert json.loads((run / "certificate.json").read_text())["gate"] == "soft"
    assert json.loads((run / "results.json").read_text())["certificate"]["gate"] == "soft"


def test_damaged_results_are_told_before_a_certificate_is_measured(tmp_path: Path, certified: list[Path]) -> None:
    (tmp_path / "results.json").write_text('{"schema": 1,')
    with pytest.raises(ResultsFileError, match="is not JSON"):
        certify([str(tmp_path)], "certify")
    assert certified == []
