"""The split ``confirm`` is read by what a committed study lists, and by nothing else."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.ministvg.confirmation import UnconfirmedError
from stvg_nst.commands.confirmation import require_listed
from stvg_nst.configuration import merge, nested
from stvg_nst.study import planned_runs, read_studies
from tests.settings_parser import EXPERIMENTS, settings_parser

STUDY = "experiments/list.yaml"
CONTENT: dict[str, Any] = {
    "title": "What is confirmed",
    "seeds": [0, 1],
    "minutes_per_run": 1,
    "overlays": [f"experiments/{name}.yaml" for name in ("base", "data/mini", "model/mini")],
    "baseline": ["experiments/tuner/zero_shot.yaml"],
    "tuner": ["experiments/tuner/lora.yaml", "experiments/scope/decoder.yaml"],
    "set": {
        "data.init_args.evaluation_split": "confirm",
        "data.init_args.confirmation": STUDY,
        "model.weights": "random",
    },
    "tests": {"draw 0": {}, "draw 1": {"data.init_args.benchmark_seed": 1}},
    "points": {"slow": {}, "fast": {"model.optimizer.init_args.lr": 0.1}},
}

Command = Callable[..., Namespace]


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> LightningArgumentParser:
    """That of `test`, which knows all settings that `fit` has."""
    return settings_parser("test", tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def fit_parser(tmp_path_factory: pytest.TempPathFactory) -> LightningArgumentParser:
    """That of `fit`, which has none of the options of `test` alone."""
    return settings_parser("fit", tmp_path_factory.mktemp("run"))


@pytest.fixture
def command(tmp_path: Path, parser: LightningArgumentParser, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`fit` or `test` of what a repository lists, with some settings changed: the configuration, where it may go on."""
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)
    shutil.copytree(EXPERIMENTS, tmp_path / "experiments")
    (tmp_path / STUDY).write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    commit()
    baseline, runs = planned_runs(read_studies(Path(STUDY))[0], Path("runs"))

    def start(stage: str, point: str | None, checkpoint: Path | None = None, **changes: Any) -> Namespace:
        listed = next((own for own in runs if own.point == point), baseline)
        settings = (nested(name.replace("__", "."), value) for name, value in changes.items())
        config = parser.parse_object(dict(reduce(merge, settings, {**listed.config, "run": "runs/here"})))
        require_listed(stage, config, parser, checkpoint)
        return config

    return start


def commit() -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for words in (["init"], ["add", "."], [*identity, "commit", "--message", "the list"]):
        subprocess.run(["git", *words], check=True, capture_output=True)


@pytest.fixture
def adapter(command: Command, fit_parser: LightningArgumentParser) -> str:
    """That of a fit of ``slow``."""
    _, runs = planned_runs(read_studies(Path(STUDY))[0], Path("runs"))
    slow = next(own for own in runs if own.point == "slow")
    config = fit_parser.parse_object({**slow.config, "run": "runs/slow"})
    Path("runs/slow").mkdir(parents=True)
    Path("runs/slow/config.yaml").write_text(fit_parser.dump(config, skip_unset=False))
    return "runs/slow/adapter.safetensors"


def test_what_is_listed_is_fitted_and_tested_wherever_its_data_lies(command: Command, adapter: str) -> None:
    command("fit", "fast", seed_everything=1, data__init_args__root="elsewhere", data__init_args__num_workers=0)
    loaded = {"model__adapter": adapter, "model__baseline": None}
    for draw in (0, 1):
        command("test", "slow", **loaded, data__init_args__benchmark_seed=draw)
    command("test", None)


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        ("fit", {"model__optimizer__init_args__lr": 0.3}, r"lr: 0\.002 before, 0\.3 now"),
        ("test", {"model__tuner__init_args__rank": 8}, r"rank: 64 before, 8 now"),
        ("test", {"data__init_args__evaluation_conditions": "matrix"}, r"_conditions: 'mixed' before, 'matrix' now"),
        ("test", {"data__init_args__benchmark_seed": 2}, r"benchmark_seed: . before, 2 now"),
        ("test", {"model__inference": "two_pass"}, r"inference: 'single_pass' before, 'two_pass' now"),
        ("fit", {"seed_everything": 2}, r"it has no run of LoRA under seed 2"),
    ],
)
def test_what_is_not_listed_is_refused_and_told_what_is(
    command: Command, adapter: str, stage: str, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnconfirmedError, match=f"list\\.yaml' lists, .* does not list this {stage}: .*{said}"):
        command(stage, "slow", model__adapter=adapter, **changes)


def test_an_adapter_must_come_from_a_listed_fit(command: Command, adapter: str) -> None:
    kept = Path("runs/slow/config.yaml")
    content = yaml.safe_load(kept.read_text())
    content["model"]["optimizer"]["init_args"]["lr"] = 0.3
    kept.write_text(yaml.safe_dump(content))
    with pytest.raises(
        UnconfirmedError, match=r"not list the fit of 'runs/slow/adapter\.safetensors' as 'slow, .* 0\.3 now"
    ):
        command("test", "slow", model__adapter=adapter)
    content["model"]["optimizer"]["init_args"]["lr"] = 0.1
    kept.write_text(yaml.safe_dump(content))
    command("test", "fast", model__adapter=adapter)
    with pytest.raises(UnconfirmedError, match=r"as 'slow, seed 0'.* 0\.1 now"):
        command("test", "slow", model__adapter=adapter)
    kept.unlink()
    with pytest.raises(UnconfirmedError, match=r"nothing says how .* was trained, for there is no '.*config\.yaml'"):
        command("test", "slow", model__adapter=adapter)


def test_nothing_else_is_loaded(command: Command, adapter: str) -> None:
    with pytest.raises(UnconfirmedError, match="'slow, seed 0' on 'confirm' loads the adapter of its fit and no check"):
        command("test", "slow")
    with pytest.raises(UnconfirmedError, match=r"got .* the checkpoint last\.ckpt"):
        command("test", "slow", Path("last.ckpt"), model__adapter=adapter)
    with pytest.raises(UnconfirmedError, match="'zero-shot' on 'confirm' loads no adapter"):
        command("test", None, model__adapter=adapter)


def test_a_list_must_be_named_and_committed_with_all_that_it_is_made_of(command: Command) -> None:
    with pytest.raises(UnconfirmedError, match=r"fixed before .* name the study .* --data\.init_args\.confirmation"):
        command("test", None, data__init_args__confirmation=None)
    with pytest.raises(UnconfirmedError, match=r"'absent\.yaml' is not in the last commit as it is"):
        command("fit", None, data__init_args__confirmation="absent.yaml")
    with Path("experiments/tuner/lora.yaml").open("a") as overlay:
        overlay.write("# a change\n")
    with pytest.raises(UnconfirmedError, match=r"'experiments/tuner/lora\.yaml' is not in the last commit as it is"):
        command("fit", None)


def test_a_study_of_another_split_is_no_list(command: Command) -> None:
    content = {**CONTENT, "set": {**CONTENT["set"], "data.init_args.evaluation_split": "val"}}
    Path(STUDY).write_text(yaml.safe_dump(content))
    commit()
    with pytest.raises(
        UnconfirmedError, match=r"does not list this test: .* evaluation_split: 'val' before, 'confirm' now"
    ):
        command("test", None)


def test_other_splits_need_no_list(command: Command) -> None:
    for split in ("val", "test"):
        command("test", "slow", data__init_args__evaluation_split=split, data__init_args__confirmation=None)
    command("validate", "slow", data__init_args__confirmation=None)
