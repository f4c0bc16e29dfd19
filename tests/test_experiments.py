"""Every configuration parses against the real signatures; misspelt ones are refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.ministvg.data_module import TARGET_WORDS
from stvg_nst import __main__ as root
from stvg_nst.configuration import merge, read_overlay
from stvg_nst.models import TubeDETR
from stvg_nst.models.base import Grounder
from stvg_nst.models.blocks import ImageEncoder
from stvg_nst.study import planned_runs, read_studies
from stvg_nst.tuning import InjectionReport, NullSpaceTuning, Tuner
from tests.settings_parser import settings_parser

FOLDER = Path("experiments")
OVERLAYS = {kind: sorted(path.stem for path in (FOLDER / kind).glob("*.yaml")) for kind in ("data", "model", "tuner")}
SCOPES = sorted(path.stem for path in (FOLDER / "scope").glob("*.yaml"))
MODULES = [name for name in SCOPES if name.endswith("_modules")]  # of whole modules; all others are of layers
LAYERS = [name for name in SCOPES if name not in MODULES and name != "nullity"]
SCOPELESS = ("adalora", "corda", "dora", "flylora", "gated_adapter", "gated_lora", "houlsby", "lora", "projection")
OF_MODULES = ("prompts", "switch")  # like full fine-tuning they need a scope of whole modules
OF_TUBEDETR = [name for name in OVERLAYS["data"] if name.endswith("_tubedetr")]  # a test of their own parses them
HARDWARE = sorted(path.stem for path in (FOLDER / "hardware").glob("*.yaml") if path.stem != "ddp")
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


# Data, model and tuner are sections of their own: each overlay meets one of the others'.
COMPOSITIONS = sorted(
    {
        *product(sorted({*OVERLAYS["data"]} - {*OF_TUBEDETR}), ["cgstvg"], ["nst"]),
        *product(["mini"], ARCHITECTURES, ["nst"]),
        *product(["mini_cached"], ["mini"], OVERLAYS["tuner"]),
    }
)


@pytest.fixture(scope="module")
def fit_parser(tmp_path_factory: pytest.TempPathFactory) -> LightningArgumentParser:
    return settings_parser("fit", tmp_path_factory.mktemp("run"))


def merged(*names: str) -> dict[str, Any]:
    nothing: dict[str, Any] = {}
    return reduce(merge, (read_overlay(FOLDER / f"{name}.yaml") for name in names), nothing)


@pytest.mark.parametrize(("data", "model", "tuner"), COMPOSITIONS)
def test_every_composition_parses(fit_parser: LightningArgumentParser, data: str, model: str, tuner: str) -> None:
    scope = ("scope/decoder",) if tuner in SCOPELESS else ("scope/encoder_modules",) if tuner in OF_MODULES else ()
    names = ("base", f"data/{data}", f"model/{model}", f"model/{model}_weights", f"tuner/{tuner}", *scope)
    fit_parser.parse_object(merged(*names) | {"run": "runs/never"})


@pytest.mark.parametrize("scope", LAYERS)
def test_a_scope_goes_over_a_tuner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scope: str
) -> None:
    names = ("base", "data/mini", "model/mini", "model/mini_weights", "tuner/lora", f"scope/{scope}")
    assert parse(monkeypatch, *configs(*names)) == 0
    tuner = yaml.safe_load(capsys.readouterr().out)["model"]["tuner"]
    assert tuner["class_path"] == "stvg_nst.tuning.LoRA" and tuner["init_args"]["rank"] == 64
    assert tuner["init_args"]["targets"] == read_tuner("scope", scope)["init_args"]["targets"]


def read_tuner(kind: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / kind / f"{name}.yaml").read_text())["model"]["tuner"]


def inject(name: str, scope: str | None = None) -> InjectionReport:
    """What the tuner of an overlay, with a scope over it, does to the miniature."""
    tuner = read_tuner("tuner", name)
    model = yaml.safe_load((FOLDER / "model" / "mini.yaml").read_text())["model"]
    return inject_configured({**model, "tuner": tuner if scope is None else merge(tuner, read_tuner("scope", scope))})


def inject_configured(model: Mapping[str, Any]) -> InjectionReport:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    parser.add_subclass_arguments(Tuner, "tuner")
    built = parser.instantiate(parser.parse_object({part: model[part] for part in ("grounder", "tuner")}))
    tuner = built.tuner
    if isinstance(tuner, NullSpaceTuning):
        tuner = replace(tuner, spaces=None)  # the weights are random
    return tuner.inject(built.grounder)


@pytest.mark.parametrize(
    ("scope", "count"),
    [("decoder", 21), ("encoder", 2), ("encoder_all", 12), ("encoder_all_inputs", 14), ("both", 23)],
)
def test_the_adapters_of_a_scope_tune_the_same_layers_of_the_miniature(scope: str, count: int) -> None:
    layers = {name: tuple(layer.name for layer in inject(name, scope).layers) for name in (*SCOPELESS, "nst")}
    assert len(set(layers.values())) == 1 and len(layers["nst"]) == count
    assert scope != "both" or layers["nst"] == tuple(layer.name for layer in inject("nst").layers)


@pytest.mark.parametrize("ablation", ["components", "gate"])
def test_the_points_of_an_ablation_differ_in_one_thing_and_not_in_size(ablation: str) -> None:
    (study,) = read_studies(FOLDER / "ablate" / f"{ablation}.yaml")
    reports = [inject_configured(point["model"]) for point in study.points.values()]
    sizes = [report.trainable for report in reports]
    assert max(sizes) / min(sizes) < 1.03
    assert len({tuple(layer.name for layer in report.layers) for report in reports}) == 1


SMALL_TUBEDETR = merge(
    yaml.safe_load((FOLDER / "model" / "tubedetr.yaml").read_text())["model"]["grounder"],
    {
        "init_args": {
            "visual": {"init_args": {"name": "resnet10t", "stage": 3, "model_args": {"channels": [32, 64, 128, 128]}}},
            "text": {"init_args": {"source": "stvg_nst/models/mini", "width": 96}},
            "num_heads": 4,
            "hidden": 384,
        }
    },
)


def inject_in_tubedetr(tuner: str, scope: str) -> InjectionReport:
    laid_over = merge(read_tuner("tuner", tuner), read_tuner("scope/tubedetr", scope))
    return inject_configured({"grounder": SMALL_TUBEDETR, "tuner": laid_over})


@pytest.mark.parametrize(
    ("scope", "count"),
    [("decoder", 17), ("encoder", 6), ("encoder_all", 36), ("encoder_all_inputs", 39), ("both", 23), ("nullity", 16)],
)
def test_a_scope_of_tubedetr_names_its_layers(monkeypatch: pytest.MonkeyPatch, scope: str, count: int) -> None:
    monkeypatch.setattr(TubeDETR, "_initialise", lambda grounder: None)  # a zero weight passes no residual
    names = ["nst"] if scope == "nullity" else ["nst", "lora"]
    layers = {tuple(layer.name for layer in inject_in_tubedetr(name, scope).layers) for name in names}
    assert [len(each) for each in layers] == [count]


def test_scopes_of_tubedetr_are_those_of_cgstvg() -> None:
    assert sorted(path.stem for path in (FOLDER / "scope" / "tubedetr").glob("*.yaml")) == [*SCOPES, "whole_modules"]
    decoder, both, whole = (inject_in_tubedetr("full", f"{scope}_modules") for scope in ("decoder", "both", "whole"))
    encoder, inputs = (inject_in_tubedetr("full", scope) for scope in ("encoder_modules", "encoder_inputs_modules"))
    assert 0 < decoder.trainable < both.trainable < whole.trainable
    assert encoder.trainable < inputs.trainable < both.trainable
    image_encoder = sum(
        part.numel() for part in ImageEncoder(**SMALL_TUBEDETR["init_args"]["visual"]["init_args"]).parameters()
    )
    assert whole.trainable == whole.total - image_encoder
    assert inject_in_tubedetr("prompts", "encoder_modules").trainable == 6 * 10 * 96


def test_full_fine_tuning_of_a_scope_is_part_of_that_of_the_model() -> None:
    decoder, encoder, both = (inject("full", scope) for scope in ("decoder_modules", "encoder_modules", "both_modules"))
    model = inject("full")
    assert 0 < decoder.trainable < both.trainable < model.trainable < model.total == decoder.total
    assert decoder.trainable + encoder.trainable == both.trainable
    assert encoder.trainable < inject("full", "encoder_inputs_modules").trainable < model.trainable


@pytest.mark.parametrize("scope", MODULES)
def test_methods_of_whole_modules_take_the_scopes_of_full_fine_tuning(
    scope: str,
) -> None:
    full, switch = inject("full", scope), inject("switch", scope)
    router = inject("switch", "encoder_modules").trainable - inject("full", "encoder_modules").trainable
    assert switch.trainable == full.trainable + router
    if scope == "encoder_modules":
        assert inject("prompts", scope).trainable == 2 * 10 * 96
    else:
        with pytest.raises(ValueError, match=r"a decoder has none; choose experiments/scope/encoder_modules\.yaml"):
            inject("prompts", scope)


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


@pytest.mark.parametrize("name", HARDWARE)
@pytest.mark.parametrize("data", ["mini_cached", "hcstvg_v2", "vidstg"])
def test_hardware_goes_over_any_data_and_ddp_over_any_hardware(
    fit_parser: LightningArgumentParser, data: str, name: str
) -> None:
    names = ("base", f"data/{data}", "model/cgstvg", "tuner/nst", f"hardware/{name}", "hardware/ddp")
    whole = merge(merged(*names), {"model": {"weights": "random"}, "run": "runs/never"})
    config = fit_parser.parse_object(whole)
    sizes = config.data.init_args
    assert sizes.effective_batch == 32 and 32 % sizes.batch_size == 0 and sizes.batch_size % 2 == 0
    strategy = config.trainer.strategy
    assert strategy.class_path.endswith("DDPStrategy") and strategy.init_args.timeout == timedelta(minutes=30)
    ours = ("find_unused_parameters", "static_graph", "gradient_as_bucket_view")
    assert [strategy.init_args[name] for name in ours] == [False, False, True]


@pytest.mark.parametrize(
    "path",
    sorted(p for p in FOLDER.rglob("*.yaml") if "seeds:" in p.read_text() and FOLDER / "paper" not in p.parents),
    ids=lambda path: path.stem,
)
def test_every_point_of_a_study_parses(fit_parser: LightningArgumentParser, tmp_path: Path, path: Path) -> None:
    for quick in (False, True):
        baseline, runs = planned_runs(read_studies(path, quick=quick)[0], tmp_path)
        for run in (baseline, *runs[: len(runs) if quick else 1]):
            fit_parser.parse_object({**run.config, "run": "runs/never"})


def test_a_narrower_tuning_set_lacks_what_there_is() -> None:
    (study,) = read_studies(FOLDER / "compare" / "narrow.yaml")
    lacking = [level["data.init_args.training_without"] for level in study.levels.values() if level]
    assert [len(words) for words in lacking] == [3, 2, 4]
    assert {word for words in lacking for word in words} < set(TARGET_WORDS)


def test_training_of_the_full_size_parses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert parse(monkeypatch, *configs("base", "data/mini", "model/cgstvg", "pretrain/cgstvg")) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    names = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert names.index("callbacks.MovingAverage") > names.index("callbacks.AdapterCheckpoint")
    assert set(config["model"]["schedule"]["init_args"]["linear"]) <= set(config["model"]["learning_rates"])
    visual = config["model"]["grounder"]["init_args"]["visual"]["init_args"]
    assert (visual["name"], visual["frozen_norm"], visual["recompute"]) == ("resnet101", True, True)


def test_training_of_the_full_size_on_vidstg(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("base", "data/mini", "model/cgstvg", "pretrain/cgstvg", "pretrain/cgstvg_vidstg")
    assert parse(monkeypatch, *configs(*names)) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    weights = {name: config["model"]["loss"]["init_args"][name] for name in ("boxes", "giou", "start_end", "actioness")}
    assert weights == {"boxes": 5, "giou": 3, "start_end": 1, "actioness": 2}
    assert config["model"]["grounder"]["init_args"]["actioness_threshold"] == -0.5
    assert config["model"]["grounder"]["init_args"]["recompute_decoders"] is True
    assert config["model"]["learning_rates"] == {"visual.*": 1e-5, "text.*": 5e-5, "time_decoder.*": 1e-4}
    schedule = {"epochs": 10, "drops": [8, 10], "linear": [], "warm_up_all": True}
    assert config["model"]["schedule"]["init_args"] == schedule


@pytest.mark.parametrize("data", ["hcstvg_v1", "hcstvg_v2", "vidstg"])
def test_training_of_the_full_size_augments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    names = ("base", f"data/{data}", "model/cgstvg", "pretrain/cgstvg", "pretrain/augmentation")
    assert parse(monkeypatch, *configs(*names)) == 0
    augmentation = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["augmentation"]
    assert augmentation == {"flip": 0.7, "crop": 0.5, "crop_of": "samples", "swap_sides": True}


@pytest.mark.parametrize("data", OF_TUBEDETR)
def test_tubedetr_is_trained_as_by_its_authors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: str
) -> None:
    names = ("base", f"data/{data}", "model/tubedetr", "pretrain/tubedetr", "pretrain/tubedetr_augmentation")
    smaller = ("--data.init_args.augmentation.smallest_crop=150", "--data.init_args.sampling.rate=4")
    assert parse(monkeypatch, *configs(*names), *smaller) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    model, options = config["model"], config["data"]["init_args"]
    assert set(model["schedule"]["init_args"]["linear"]) <= set(model["learning_rates"])
    callbacks = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert callbacks.index("callbacks.MovingAverage") > callbacks.index("callbacks.AdapterCheckpoint")
    assert options["augmentation"] == {
        "sizes": [224, 256, 288, 320, 352],
        "sizes_before_crop": [200, 250, 300],
        "smallest_crop": 150,
        "at_most": 200,
    }
    assert options["sampling"] == {"rate": 4.0, "at_most": 200}
    assert (options["resizing"], options["resolution"], options["convention"]) == ("short_side", 352, "tubedetr")


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


@pytest.mark.parametrize("missing", ["tuner", "grounder", "weights", "targets"])
def test_a_forgotten_overlay_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    overlays = {
        "grounder": "model/mini",
        "weights": "model/mini_weights",
        "tuner": "tuner/lora",
        "targets": "scope/both",
    }
    if missing == "tuner":
        del overlays["targets"]
    names = ["base", "data/mini", *(overlay for part, overlay in overlays.items() if part != missing)]
    assert parse(monkeypatch, *configs(*names), show=False) == 2
    assert missing in capsys.readouterr().err


def test_each_file_says_what_it_is() -> None:
    for path in FOLDER.rglob("*.yaml"):
        assert path.read_text().startswith("# "), f"{path} must open with a comment"
        assert isinstance(yaml.safe_load(path.read_text()), dict)
