"""The packaging files agree with each other and with the code, and the Makefile keeps its promises."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import requires, version
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("stvg_nst", "datamodules", "callbacks")
# Where the name to import is not the name to install.
DISTRIBUTIONS = {"PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "PyYAML"}

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
RUNTIME = [Requirement(text) for text in PYPROJECT["project"]["dependencies"]]
DEVELOPMENT, *EXTRAS = (
    [Requirement(text) for text in PYPROJECT["project"]["optional-dependencies"][extra]]
    for extra in ("dev", "demo", "notebook", "ray")
)
STUDY_FILES = [path.relative_to(REPOSITORY) for path in (REPOSITORY / "experiments").rglob("*.yaml")]
DIRECT = {canonicalize_name(requirement.name): requirement for requirement in RUNTIME + DEVELOPMENT}


def pins(lines: list[str]) -> dict[str, str]:
    """Name to version of `name==version` lines; anything else in them is an error."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([A-Za-z0-9.+!]+)", line)
        assert match, f"expected 'name==version', got {line!r}"
        found[canonicalize_name(match[1])] = match[2]
    return found


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    entries = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    return pins([line for line in pip if not line.startswith("--")])


def test_ranges_admit_the_tested_versions(constraints: dict[str, str]) -> None:
    for name, requirement in {**DIRECT, **{canonicalize_name(extra.name): extra for extra in chain(*EXTRAS)}}.items():
        assert name in constraints, f"constraints.txt lacks the direct dependency '{name}'"
        assert requirement.specifier.contains(constraints[name]), f"{requirement} refuses {constraints[name]}"


def test_the_tested_versions_admit_the_tested_gradio(constraints: dict[str, str]) -> None:
    """Else pip, which must not change a pin, would take the newest Gradio that asks for less: one of years ago."""
    pytest.importorskip("gradio", reason="its requirements are read from its installation: pip install -e '.[demo]'")
    wanted = [Requirement(text) for text in requires("gradio") or ()]
    for requirement in wanted:
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            pin = constraints[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(pin), f"Gradio asks for {requirement}, but the pin is {pin}"
    assert version("gradio") == constraints["gradio"]


@pytest.mark.parametrize("version", ["2.11.0", "2.12.0", "2.13.1", "2.14.0", "2.15.2"])
def test_torch_range_admits_its_promised_releases(version: str) -> None:
    assert DIRECT["torch"].specifier.contains(version)


@pytest.mark.parametrize("version", ["2.10.0", "2.16.0"])
def test_torch_range_refuses_its_neighbours(version: str) -> None:
    assert not DIRECT["torch"].specifier.contains(version)


def test_conda_environment_holds_the_same_versions(environment: dict[str, str], constraints: dict[str, str]) -> None:
    assert environment == {name: constraints[name] for name in DIRECT}


def test_conda_environment_has_the_oldest_admitted_python() -> None:
    entries = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    python = next(entry for entry in entries if isinstance(entry, str) and entry.startswith("python="))
    assert ">=" + python.removeprefix("python=") == PYPROJECT["project"]["requires-python"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"])
def test_no_file_names_a_package_index(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    assert not re.search(r"://(?!localhost)|index-url|find-links|trusted-host", text)


def test_private_application_is_never_uploaded() -> None:
    assert "Private :: Do Not Upload" in PYPROJECT["project"]["classifiers"]


def third_party_imports() -> dict[str, str]:
    """Top-level name of every third-party import of the three packages, and one file that has it."""
    found = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    names = [node.module]
                found.update((name.partition(".")[0], str(path.relative_to(REPOSITORY))) for name in names)
    return {name: path for name, path in found.items() if name not in {*PACKAGES, *sys.stdlib_module_names}}


# An extra's packages are imported in one place only: all else must work without them.
PLACES = {"gradio": "stvg_nst/commands/demo/", "ray": "stvg_nst/study/ray_engine.py"}


def test_every_import_is_a_declared_runtime_dependency() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in RUNTIME}
    for name, path in third_party_imports().items():
        distribution = canonicalize_name(DISTRIBUTIONS.get(name, name))
        place = PLACES.get(distribution)
        assert distribution in declared or (place and path.startswith(place)), f"{path} imports '{name}': undeclared"


# ---------------------------------------------------------------------------------------------------- Makefile
@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile and what it depends on, with a stand-in for Python that logs its calls instead of working."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    stand_in = tmp_path / "fake-python"
    stand_in.write_text(
        "#!/usr/bin/env bash\n"
        'echo "$*" >> calls\n'
        'if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi\n'
        'if [ -e broken ] && grep --quiet "$(cat broken)" <<< "$*"; then exit 1; fi\n'
        'option() { sed -n "s/.* $1 \\([^ ]*\\).*/\\1/p" <<< "$all"; }; all="$*"\n'
        'leave() { mkdir -p "$(dirname "$1")"; touch "$1"; }\n'
        '[ "$1 $2" = "-m stvg_nst" ] || exit 0\n'
        'case "$3" in\n'
        "  fit|grounding) leave $(option --run)/adapter.safetensors ;;\n"
        "  test) leave $(option --run)/results.json ;;\n"
        "  encoders) leave $(option --model.output) ;;\n"
        "  export) leave $(option --output) ;;\n"
        "  cache) for split in val test; do leave $(option --data.init_args.features)/$split/index.json; done ;;\n"
        "esac\n"
    )
    stand_in.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Neither the flags nor the variables of a `make test` around this test may reach the inner make.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "RUNS"))}
    command = ["make", f"PYTHON={folder}/fake-python", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=30, check=False)


def calls(folder: Path) -> list[str]:
    """What the stand-in was asked for since the last look: `install`, or the subcommand of the suite."""
    log = folder / "calls"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    words = [line.split() for line in lines]
    return [w[2] for w in words if w[:2] in (["-m", "stvg_nst"], ["-m", "pip"])]


def test_make_alone_lists_every_public_target(checkout: Path) -> None:
    listing = make(checkout).stdout
    for target in (
        "train",
        "test",
        "test-all",
        "test-gpu",
        "check",
        "format",
        "pretrain",
        "dashboard",
        "clean",
        "ablate-components",
    ):
        assert re.search(rf"^  make {target} +\w", listing, re.MULTILINE), listing


def test_environment_is_installed_once(checkout: Path) -> None:
    assert make(checkout, "test").returncode == 0
    assert calls(checkout) == ["install"]
    make(checkout, "test")
    assert calls(checkout) == []
    stamp = checkout / ".venv/.installed"
    os.utime(checkout / "constraints.txt", (stamp.stat().st_mtime + 1,) * 2)
    make(checkout, "test")
    assert calls(checkout) == ["install"]


def test_failed_installation_is_taken_up_again(checkout: Path) -> None:
    (checkout / "broken").write_text("pip install")
    assert make(checkout, "test").returncode != 0
    assert not (checkout / ".venv/.installed").exists()
    assert calls(checkout) == ["install"]
    (checkout / "broken").unlink()
    assert make(checkout, "test").returncode == 0
    assert calls(checkout) == ["install"]


def test_old_python_is_refused_with_advice(checkout: Path) -> None:
    (checkout / "fake-python").write_text('#!/usr/bin/env bash\necho "stvg_nst needs Python 3.11" >&2; exit 1\n')
    assert make(checkout, "test").returncode != 0
    assert not (checkout / ".venv").exists()
    recipe = make(checkout, "-n", "test").stdout
    snippet = re.search(r"-c '(.*?)'", recipe, re.DOTALL)
    assert snippet
    program = "import sys; sys.version_info = (3, 10, 2); sys.version = '3.10.2 (main)'\n" + snippet[1].replace(
        "\\\n", ""
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode != 0
    assert "3.10.2; name another one: make PYTHON=python3.11" in answer.stderr


def test_training_goes_on_behind_the_last_finished_stage(checkout: Path) -> None:
    (checkout / "broken").write_text("stvg_nst fit")
    assert make(checkout, "train", "RUNS=runs/t").returncode != 0
    assert calls(checkout) == ["install", "cache", "test", "test", "fit"]
    (checkout / "broken").unlink()
    again = make(checkout, "train", "RUNS=runs/t", "VERBOSE=1")
    assert again.returncode == 0, again.stderr
    assert calls(checkout) == ["fit", "test", "report"]
    assert "-m stvg_nst fit --config" in again.stdout, "each command can be seen, to be typed by hand"
    assert "--verbose" in again.stdout and "3 of 4  tune it (nst_encoder)" in again.stdout
    make(checkout, "train", "RUNS=runs/t")
    assert calls(checkout) == ["report"]


def test_another_tuner_is_a_run_beside_the_first(checkout: Path) -> None:
    make(checkout, "train", "RUNS=runs/t")
    calls(checkout)
    assert make(checkout, "train", "RUNS=runs/t", "TUNER=nst_paper").returncode == 0
    assert calls(checkout) == ["fit", "test", "report"]
    runs = {path.parent.name for path in checkout.glob("runs/t/*/results.json")}
    assert runs == {"zero-shot", "nst_encoder", "nst_paper"}


def test_newer_packaging_files_do_not_repeat_a_finished_training(checkout: Path) -> None:
    make(checkout, "train", "RUNS=runs/t")
    calls(checkout)
    later = (checkout / ".venv/.installed").stat().st_mtime + 1
    os.utime(checkout / "pyproject.toml", (later, later))
    make(checkout, "train", "RUNS=runs/t")
    assert calls(checkout) == ["install", "report"]


STUDIES_OF_THE_EMBEDDED_BENCHMARK = [
    *(f"ablate-{name}" for name in ("components", "nullity", "gate", "rank")),
    *("search-placement", "search-recipe", "search-lr", "compare", "table1", "curve-tuning-size", "curve-narrow"),
    *(f"confirm-{name}" for name in ("rates", "twins", "gates", "parts", "left-out", "unannotated")),
    *(f"confirm-{name}" for name in ("more-twins", "tuning-size", "unseen")),
    *("confirm", "confirm QUICK=1"),
    *(f"{target} MODEL=tubedetr_mini" for target in ("confirm-rates", "confirm-twins", "confirm")),
]


@pytest.mark.parametrize("target", STUDIES_OF_THE_EMBEDDED_BENCHMARK)
def test_a_study_has_the_features_of_its_tuning_clips(checkout: Path, target: str) -> None:
    """On a fresh machine too: what is rendered ahead of a study holds the clips that it trains on."""
    for study in STUDY_FILES:
        (checkout / study.parent).mkdir(parents=True, exist_ok=True)
        (checkout / study).touch()
    planned = make(checkout, "-n", *target.split())
    assert planned.returncode == 0, planned.stderr
    before, study, _ = planned.stdout.partition("-m stvg_nst study")
    assert study, planned.stdout
    of_tuning_clips = [
        line
        for line in before.splitlines()
        if "cache features" in line and re.search(r"^(?!.*--split)|--split train", line)
    ]
    assert of_tuning_clips, planned.stdout


@pytest.mark.parametrize("target", ["tables", "table1", "table2", "fig2", "fig3", "robustness"])
def test_a_failed_run_keeps_no_table_from_being_made(checkout: Path, target: str) -> None:
    (checkout / "broken").write_text("stvg_nst study")
    assert make(checkout, target).returncode != 0, "the tables stand, but they lack something"
    assert calls(checkout)[-2:] == ["study", "tables"]
    (checkout / "broken").write_text("stvg_nst tables")
    assert make(checkout, target).returncode != 0
    (checkout / "broken").unlink()
    assert make(checkout, target).returncode == 0


def test_a_packed_comparison_holds_its_own_results_and_nothing_larger(checkout: Path) -> None:
    peers = ["runs/compare/peers/mini/NST-seed0/draw-0/results.json", "runs/search/lr/LoRA-seed0/diverged.txt"]
    confirm = ["runs/confirm/rates/NST-seed0/results.json"]
    left = ["runs/compare/peers/mini/NST-seed0/adapter.safetensors", "runs/mini/nst_encoder/results.json"]
    assert "there are no runs below runs/search/lr" in make(checkout, "pack-peers", "RESULTS=packed.tar.xz").stderr
    for name in peers + confirm + left:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(name)
    for target, kept in (("pack-peers", peers), ("pack-confirm", confirm)):
        packing = make(checkout, target, "RESULTS=packed.tar.xz")
        assert packing.returncode == 0, packing.stderr
        with tarfile.open(checkout / "packed.tar.xz") as packed:
            assert packed.getnames() == kept


def test_clean_keeps_runs_data_and_environment(checkout: Path) -> None:
    kept = ["runs/a/results.json", "data/ministvg/x.mp4", ".venv/bin/python"]
    removed = ["build/x", ".pytest_cache/x", "stvg_nst/__pycache__/x.pyc"]
    for folder in (*PACKAGES, "tests"):
        (checkout / folder).mkdir()
    for name in kept + removed:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    assert make(checkout, "clean").returncode == 0
    assert [name for name in kept + removed if (checkout / name).exists()] == kept
