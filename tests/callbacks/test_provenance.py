from __future__ import annotations

import hashlib
import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from callbacks import provenance
from callbacks.provenance import LIBRARIES, config_hash, git_state, software_versions


def install(monkeypatch: pytest.MonkeyPatch, *distributions: str) -> None:
    """Lets these be all that is installed."""

    def version(name: str) -> str:
        if name not in distributions:
            raise importlib.metadata.PackageNotFoundError(name)
        return f"1.0 of {name}"

    monkeypatch.setattr(provenance, "version", version)


@pytest.mark.parametrize(
    "distribution",
    ["opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless", "decord"],
)
def test_a_library_may_come_from_several_distributions(monkeypatch: pytest.MonkeyPatch, distribution: str) -> None:
    install(monkeypatch, distribution)
    assert software_versions()[distribution] == f"1.0 of {distribution}"


def test_all_distributions_that_share_a_library_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "opencv-python", "opencv-python-headless")
    assert {"opencv-python", "opencv-python-headless"} <= software_versions().keys()


def test_a_library_without_a_distribution_is_recorded_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(__version__="4.99"))
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    versions = software_versions()
    assert versions["cv2"] == "4.99, without the metadata of a distribution"
    assert versions["decord"] == "version unknown, without the metadata of a distribution"
    assert versions.keys() == {"python", "stvg_nst", *LIBRARIES}


def test_configuration_hash(tmp_path: Path) -> None:
    assert config_hash(tmp_path) is None
    (tmp_path / "test.yaml").write_text("b: 2\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"b: 2\n").hexdigest()
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert config_hash(tmp_path) == hashlib.sha256(b"a: 1\nb: 2\n").hexdigest()


def test_commit_of_a_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)
    source, untracked = tmp_path / "source.py", tmp_path / "untracked.py"
    source.write_text("a = 1\n")
    untracked.write_text("b = 1\n")
    assert git_state(source) == (None, None)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    git("add", "source.py")
    assert git_state(source) == (None, None), "no commit yet"
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state(source) == (commit, False)
    source.write_text("a = 2\n")
    assert git_state(source) == (commit, True)
    assert git_state(untracked) == (None, None)


def test_a_git_that_cannot_be_started_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("not a program")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__)) == (None, None)
