"""Every configuration parses against the real signatures; misspelt ones are refused."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from stvg_nst import __main__ as root
from stvg_nst.models.base import Grounder
from stvg_nst.study import planned_runs, read_study
from stvg_nst.tuning import InjectionReport, Tuner

FOLDER = Path("experiments")
OVERLAYS = {kind: sorted(path.stem for path in (FOLDER / kind).glob("*.yaml")) for kind in ("data", "model", "tuner")}
ARCHITECTURES = [name for name in OVERLAYS["model"] if not name.endswith("_weights")]


def parse(monkeypatch: pytest.MonkeyPatch, *arguments: str, show: bool = True) -> int | str | None:
    """The exit status of a command that only shows its configuration, or of one that must not even start."""
    shown = ["--print_config"] if show else ["--trainer.fast_dev_run=1"]
    monkeypatch.setattr(sys, "argv", ["stvg_nst", "fit", *arguments, "--run=runs/never", *shown])
    with pytest.raises(SystemExit) as stop:
        root.main()
    return stop.value.code


def configs(*names: str) -> list[str]:
    return [argument for name in names for argument in ("--config", str(FOLDER / f"{name}.yaml"))]


@pytest.mark.parametrize(("data", "model", "tuner"), [*product(OVERLAYS["data"], ARCHITECTURES, OVERLAYS["tuner"])])
def test_every_composition_parses(monkeypatch: pytest.MonkeyPatch, data: str, model: str, tuner: str) -> None:
    names = ("base", f"data/{data}", f"model/{model}", f"model/{model}_weights", f"tuner/{tuner}")
    assert parse(monkeypatch, *configs(*names)) == 0


def inject(name: str) -> InjectionReport:
    """What the tuner of an overlay does to the miniature."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    parser.add_subclass_arguments(Tuner, "tuner")
    model, tuner = (yaml.safe_load((FOLDER / f"{part}.yaml").read_text()) for part in ("model/mini", f"tuner/{name}"))
    config = {"grounder": model["model"]["grounder"], "tuner": tuner["model"]["tuner"]}
    built = parser.instantiate(parser.parse_object(config))
    return built.tuner.inject(built.grounder)


def test_the_adapters_tune_the_same_layers_of_the_miniature() -> None:
    reports = {name: inject(name) for name in ("nst_decoder", "lora", "dora", "adalora", "flylora")}
    layers = [layer.name for layer in reports["nst_decoder"].layers]
    assert len(layers) == 21
    assert all([layer.name for layer in report.layers] == layers for report in reports.values())


def test_full_fine_tuning_of_the_decoders_is_part_of_that_of_the_model() -> None:
    decoder, model = inject("full_decoder"), inject("full")
    assert 0 < decoder.trainable < model.trainable < model.total == decoder.total


def test_vidstg_weights_bring_their_thresholds_and_their_objective(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("base", "data/mini", "model/cgstvg", "model/cgstvg_vidstg_weights", "tuner/zero_shot")
    assert parse(monkeypatch, *configs(*names)) == 0
    model = yaml.safe_load(capsys.readouterr().out)["model"]
    grounder, loss = (model[name]["init_args"] for name in ("grounder", "loss"))
    assert (grounder["actioness_threshold"], grounder["confidence_threshold"]) == (-0.5, 0.5)
    assert grounder["visual"]["init_args"]["frozen_norm"] is True
    assert (loss["boxes"], loss["giou"], loss["start_end"]) == (5.0, 3.0, 1.0)


@pytest.mark.parametrize("stage", ["grounding", "boxes", "polish"])
def test_pretraining_parses(monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    names = ("base", "model/mini", f"pretrain/{stage}")
    assert parse(monkeypatch, *configs(*names), "--model.weights=encoders.safetensors") == 0


@pytest.mark.parametrize(
    "path",
    sorted([*(FOLDER / "ablate").glob("*.yaml"), *(FOLDER / "search").glob("*.yaml")]),
    ids=lambda path: path.stem,
)
def test_every_point_of_a_study_parses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Path) -> None:
    for quick in (False, True):
        baseline, runs = planned_runs(read_study(path, quick=quick), tmp_path)
        for run in (baseline, *runs[: len(runs) if quick else 1]):
            run.write_config()
            assert parse(monkeypatch, f"--config={run.config_file}") == 0, f"{path}: {run}"


def test_training_of_the_full_size_parses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(monkeypatch, *configs("base", "data/mini", "model/cgstvg", "pretrain/cgstvg")) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    names = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert names.index("callbacks.MovingAverage") > names.index("callbacks.AdapterCheckpoint")
    assert set(config["model"]["schedule"]["init_args"]["linear"]) <= set(config["model"]["learning_rates"])
    visual = config["model"]["grounder"]["init_args"]["visual"]["init_args"]
    assert (visual["name"], visual["frozen_norm"], visual["recompute"]) == ("resnet101", True, True)


@pytest.mark.parametrize("data", ["hcstvg_v1", "hcstvg_v2", "vidstg"])
def test_training_of_the_full_size_augments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    names = ("base", f"data/{data}", "model/cgstvg", "pretrain/cgstvg", "pretrain/augmentation")
    assert parse(monkeypatch, *configs(*names)) == 0
    augmentation = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["augmentation"]
    assert augmentation == {"flip": 0.7, "crop": 0.5, "crop_of": "samples", "swap_sides": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.tuner.rnak=3"], "rnak"),
        (["--trainer.max_epoch=3"], "max_epoch"),
        (["--model.tuner=NoSuchTuner"], "NoSuchTuner"),
        (["--data.init_args.batchsize=3"], "batchsize"),
    ],
)
def test_a_misspelt_key_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = configs("base", "data/mini", "model/mini", "model/mini_weights", "tuner/nst")
    assert parse(monkeypatch, *names, *arguments) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["tuner", "grounder", "weights"])
def test_a_forgotten_overlay_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    overlays = {"tuner": "tuner/nst", "grounder": "model/mini", "weights": "model/mini_weights"}
    names = ["base", "data/mini", *(overlay for part, overlay in overlays.items() if part != missing)]
    assert parse(monkeypatch, *configs(*names), show=False) == 2
    assert missing in capsys.readouterr().err


def test_each_file_says_what_it_is() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path} must open with a comment"
        assert isinstance(yaml.safe_load(path.read_text()), dict)
