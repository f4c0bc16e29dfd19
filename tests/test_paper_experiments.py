"""The paper's experiments: they resolve to what the paper states, say all that they lack, and run on made-up data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from stvg_nst.commands.missing import examine_experiment
from stvg_nst.models.base import Grounder
from stvg_nst.study import planned_runs, read_studies
from stvg_nst.tuning.selection import choose_layers, find_candidates, measure_layers
from tests.settings_parser import settings_parser

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = Path("experiments/paper")
SETS = ("hcstvg_v1", "hcstvg_v2", "vidstg")
PARTS = sorted(
    str(path.relative_to(FOLDER).with_suffix(""))
    for path in FOLDER.glob("*/*.yaml")
    if path.parent.name in SETS and path.stem != "learning_rates"
)


def make(*arguments: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    stvg = f"STVG={sys.executable} -m stvg_nst"
    command = ["make", "-C", str(folder), "--old-file=.venv/.installed", stvg, *arguments]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def fit_parser(tmp_path_factory: pytest.TempPathFactory) -> LightningArgumentParser:
    return settings_parser("fit", tmp_path_factory.mktemp("settings"))


def test_make_runs_every_part_and_each_search_before_what_reads_it() -> None:
    said = make("-n", "paper").stdout
    order = re.findall(r" study experiments/paper/(\S+)\.yaml", said)
    assert sorted(order) == PARTS and order[:3] == [f"{name}/zero_shot" for name in SETS]
    for name in SETS:
        own = [part for part in order if part.startswith(f"{name}/")]
        assert own.index(f"{name}/rates") == 1, "a rate is chosen ahead of all that needs it"
    assert said.index(" doctor ") < said.index(" study "), "what is lacking is said before anything runs"
    assert " --quick" not in said
    assert "PART=vidstg/table9 is none of" in make("-n", "paper", "PART=vidstg/peers vidstg/table9").stderr
    assert "--part options" in make("-n", "bench-gpu", "PART=options").stdout, "another target's parts"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_resolves_to_real_configurations(fit_parser: LightningArgumentParser, tmp_path: Path, part: str) -> None:
    for quick in (False, True):
        (study,) = read_studies(FOLDER / f"{part}.yaml", quick=quick)
        baseline, runs = planned_runs(study, tmp_path)
        if not quick:  # those cut short are run as a whole, below
            fit_parser.parse_object({**(baseline, *runs)[-1].config, "run": "runs/never"})
        visual = baseline.config["model"]["grounder"]["init_args"]["visual"]["init_args"]["name"]
        assert visual == ("resnet10t" if quick else "resnet101")
        assert study.quick == quick and (not quick or study.title.startswith("QUICK"))
    if part.endswith("zero_shot"):
        assert study.published is not None and {name.split("/")[0] for name in study.published.numbers} == {"HQ"}


@pytest.mark.parametrize("part", [part for part in PARTS if not part.endswith("zero_shot")])
def test_what_the_paper_states_holds_in_every_run(part: str) -> None:
    (study,) = read_studies(FOLDER / f"{part}.yaml")
    for name, config in study.points.items():
        assert config["data"]["init_args"]["effective_batch"] == 32
        assert config["model"]["optimizer"]["class_path"] == "torch.optim.AdamW"
        tuner = config["model"]["tuner"]["init_args"]
        assert tuner.get("rank") == 64 or name.startswith("Full FT")
        assert tuner.get("share", 0.1) == 0.1


def test_every_search_has_the_same_grid() -> None:
    grids = [read_studies(FOLDER / name / "rates.yaml")[0].levels for name in SETS]
    assert len(grids[0]) == 6 and grids[0] == grids[1] == grids[2]


def test_the_scope_is_the_tenth_of_the_layers_with_the_largest_null_space() -> None:
    """Of the miniature, whose layers have the names of the full size: 18 of 184 there."""
    model = yaml.safe_load(Path("experiments/model/mini.yaml").read_text())["model"]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    torch.manual_seed(0)  # about one drawn square matrix in a thousand is singular in single precision
    grounder = parser.instantiate(parser.parse_object(model)).grounder
    nullity = yaml.safe_load(Path("experiments/scope/nullity.yaml").read_text())["model"]["tuner"]["init_args"]
    layers = find_candidates(grounder, nullity["targets"], whole_modules=True, exclude=nullity["exclude"])
    exact = choose_layers(
        measure_layers(layers, rule="exact", threshold=None), strategy="structural", share=1.0, seed=0
    )
    targets = yaml.safe_load((FOLDER / "scope.yaml").read_text())["model"]["tuner"]["init_args"]["targets"]
    assert set(exact) == {name for name in layers if any(fnmatchcase(name, target) for target in targets)}


def test_all_that_is_lacking_is_said_at_once_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("experiments", "stvg_nst"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    found = examine_experiment([FOLDER / f"{part}.yaml" for part in PARTS])
    lacking = {f.about: f"{f.said}; {f.advice}" for f in found if f.verdict == "lacking"}
    splits = {f"{name}, {split}" for name in SETS for split in ("train", "test")}
    assert splits | {"weights", "hcstvg_v2"} <= set(lacking), "of VidSTG's own validation set nothing is read"
    assert not any("val" in about for about in lacking)
    weights = [f.advice for f in found if f.about == "weights"]
    assert [re.findall(r"convert (\S+) ", advice) for advice in weights] == [["hcstvg"], ["hcstvg2"], ["vidstg"]]
    assert "data verify hcstvg_v2" in lacking["hcstvg_v2"], "its policies ask how long the films are"
    assert {"disk of the runs", "GPU memory"} <= {finding.about for finding in found}


@pytest.mark.slow
def test_the_whole_paper_runs_on_made_up_data(tmp_path: Path) -> None:
    for name in (
        "experiments",
        "stvg_nst",
        "datamodules",
        "callbacks",
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
    ):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    done = make("paper", "QUICK=1", folder=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    runs = tmp_path / "runs" / "paper"
    tables = [runs / name / "zero_shot-quick" / "published.md" for name in SETS]
    tables += [runs / f"{name}-quick" / "study.md" for name in PARTS if name.split("/")[1] in ("components", "nullity")]
    figures = [table.with_suffix(".png") for table in tables[3:]]
    for name in ("vidstg", "hcstvg_v2"):
        folder = runs / name / "peers-quick" / "tables"
        tables += [folder / f"{kind}.md" for kind in ("table1", "table2", "fig2", "robustness")]
        figures += [folder / f"{kind}.png" for kind in ("fig2", "fig3")]
    for table in tables:
        text = table.read_text()
        assert "SYNTHETIC" in text and "QUICK" in text and "INCOMPLETE" not in text, table
    assert all(figure.stat().st_size > 10_000 for figure in figures)
    assert all((runs / name / "rates-quick" / "learning_rates.yaml").is_file() for name in SETS)
    again = make("paper", "QUICK=1", folder=tmp_path)
    assert again.returncode == 0 and "to go" not in again.stdout, "what is finished is not repeated"
