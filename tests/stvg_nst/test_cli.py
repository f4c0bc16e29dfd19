from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from jsonargparse import Namespace

from stvg_nst.cli import CertifyCLI, RunCLI, finished_run
from stvg_nst.tuning import NullSpaceTuning, ZeroShot


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


@pytest.mark.parametrize("logger", [False, Namespace(class_path="lightning.pytorch.loggers.CSVLogger")])
def test_another_dashboard_is_refused_and_not_ignored(logger: Any) -> None:
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/a", trainer=Namespace(logger=logger))))
    with pytest.raises(ValueError, match=r"--trainer\.logger (False|.*CSVLogger): a run's dashboard is TensorBoard's"):
        RunCLI.before_instantiate_classes(cli)


@pytest.mark.parametrize("logger", [None, True, Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger")])
def test_the_dashboard_lies_in_the_folder_of_the_run(logger: Any) -> None:
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/a", trainer=Namespace(logger=logger))))
    RunCLI.before_instantiate_classes(cli)
    assert cli.config.fit.trainer.logger.init_args.save_dir == "runs/a"


def test_a_trainer_without_dashboard_and_checkpoints_is_refused() -> None:
    trainer = Namespace(logger=None, barebones=True)
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/a", trainer=trainer)))
    with pytest.raises(ValueError, match=r"--trainer\.barebones true: such a trainer keeps no dashboard"):
        RunCLI.before_instantiate_classes(cli)


@pytest.mark.parametrize("wanted", [None, True, False])
def test_no_progress_bar_is_one_that_the_overlay_lists(wanted: bool | None) -> None:
    names = ("lightning.pytorch.callbacks.RichProgressBar", "callbacks.ResultsWriter")
    callbacks = [Namespace(class_path=name) for name in names]
    trainer = Namespace(logger=None, enable_progress_bar=wanted, callbacks=callbacks)
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/a", trainer=trainer)))
    RunCLI.before_instantiate_classes(cli)
    kept = [callback.class_path for callback in trainer.callbacks]
    assert kept == list(names[1:] if wanted is False else names)


def test_the_name_of_a_run_is_utf_8() -> None:
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/caf\udce9", trainer=Namespace())))
    with pytest.raises(ValueError, match="the name of a run's folder must be UTF-8"):
        RunCLI.before_instantiate_classes(cli)


def test_a_run_of_another_tuner_has_nothing_to_certify() -> None:
    cli = SimpleNamespace(model=SimpleNamespace(tuner=ZeroShot()), datamodule=None)
    with pytest.raises(ValueError, match="a run of NullSpaceTuning in 'runs/other', got one of ZeroShot"):
        CertifyCLI.certify(cli, Path("runs/other"), split="test", batches=None)


def test_sentences_are_checked_before_a_certificate_is_measured() -> None:
    checked: list[Any] = []

    def check_queries(split: str, queries: Any) -> None:
        checked.append((split, queries))
        raise ValueError("too long")

    module = MagicMock(tuner=NullSpaceTuning(targets=["*.linear2"]), check_queries=check_queries)
    data = MagicMock(records={"val": [SimpleNamespace(item_id="a", query="a man")]})
    with pytest.raises(ValueError, match="too long"):
        CertifyCLI.certify(SimpleNamespace(model=module, datamodule=data), Path("run"), split="val", batches=1)
    assert checked == [("val", {"a": "a man"})]
