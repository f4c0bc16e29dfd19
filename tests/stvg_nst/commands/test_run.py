from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import ArgumentParser, Namespace
from lightning import Trainer

from stvg_nst.commands import loggers
from stvg_nst.commands.run import RunCLI, RunConfig

LOGGERS = "lightning.pytorch.loggers"


def prepared(logger: Any) -> Any:
    """The loggers of a fit in `runs/a` that asks for these."""
    cli = Namespace(subcommand="fit", config=Namespace(fit=Namespace(run="runs/a", trainer=Namespace(logger=logger))))
    RunCLI.before_instantiate_classes(cli)
    return cli.config.fit.trainer.logger


@pytest.mark.parametrize("logger", [False, Namespace(class_path="lightning.pytorch.loggers.CometLogger")])
def test_a_logger_that_is_not_known_is_refused_and_not_ignored(logger: Any) -> None:
    with pytest.raises(ValueError, match=r"--trainer\.logger (False|.*CometLogger): expected .*TensorBoardLogger, "):
        prepared(logger)


@pytest.mark.parametrize("logger", [None, True, Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger")])
def test_the_dashboard_lies_in_the_folder_of_the_run(logger: Any) -> None:
    assert prepared(logger) == Namespace(
        class_path="callbacks.Dashboard", init_args=Namespace(save_dir="runs/a", name="", version="")
    )


def test_other_loggers_write_into_the_folder_of_the_run_and_say_what_is_not_drawn(
    caplog: pytest.LogCaptureFixture,
) -> None:
    csv = Namespace(class_path=f"{LOGGERS}.CSVLogger", init_args=Namespace(save_dir="logs", flush_logs_every_n_steps=5))
    both = prepared([Namespace(class_path=f"{LOGGERS}.TensorBoardLogger"), csv])
    assert [logger.class_path for logger in both] == ["callbacks.Dashboard", f"{LOGGERS}.CSVLogger"]
    assert vars(both[1].init_args) == {"save_dir": "runs/a", "name": "csv", "flush_logs_every_n_steps": 5}
    assert not caplog.records
    prepared(csv)
    assert "pictures of tubes, histograms and the page of hyper-parameters are not drawn" in caplog.text


@pytest.mark.parametrize("name", ["csv", "wandb"])
def test_overlays_of_loggers_parse(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer")
    parser.add_argument("--config", action="config")
    assert parser.parse_args([f"--config=experiments/logger/{name}.yaml"]).trainer.logger


def test_weights_and_biases_is_asked_for_by_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = Namespace(class_path=f"{LOGGERS}.WandbLogger", init_args=Namespace(project="stvg", name=None, offline=True))
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="Weights & Biases is not installed; pip install wandb"):
        prepared(wandb)
    monkeypatch.setattr(loggers, "find_spec", lambda name: "there")
    found = prepared(wandb)
    assert vars(found.init_args) == {"project": "stvg", "name": "a", "offline": True, "save_dir": "runs/a"}


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


def test_a_kept_configuration_keeps_a_null_that_is_not_the_default(tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rank", type=int | None, default=64)
    RunConfig(parser, parser.parse_args(["--rank=null"])).save_config(
        SimpleNamespace(default_root_dir=tmp_path), None, "fit"
    )
    assert parser.parse_path(tmp_path / "config.yaml").rank is None
