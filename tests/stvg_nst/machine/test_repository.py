from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stvg_nst.machine.repository import git_state, uncommitted

Git = Callable[..., str]


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Git:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where the tests run in a git hook
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    return run


def test_commit_of_a_source_file(tmp_path: Path, git: Git) -> None:
    source, untracked = tmp_path / "source.py", tmp_path / "untracked.py"
    source.write_text("a = 1\n")
    untracked.write_text("b = 1\n")
    assert git_state(source) == (None, None)
    git("init", "--quiet")
    git("add", "source.py")
    assert git_state(source) == (None, None), "no commit yet"
    git("commit", "--quiet", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert git_state(source) == (commit, False)
    source.write_text("a = 2\n")
    assert git_state(source) == (commit, True)
    assert git_state(untracked) == (None, None)


def test_a_file_is_committed_where_the_last_commit_holds_it_as_it_is(
    tmp_path: Path, git: Git, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    listed, other = tmp_path / "a" / "listed.yaml", tmp_path / "other.yaml"
    listed.write_text("x: 1\n")
    assert uncommitted([listed, tmp_path / "absent"]) == (listed, tmp_path / "absent"), "no repository"
    git("init", "--quiet")
    git("add", ".")
    assert uncommitted([listed]) == (listed,), "no commit yet"
    git("commit", "--quiet", "--message", "first")
    other.write_text("y: 1\n")
    assert uncommitted([listed, other]) == (other,)
    monkeypatch.chdir(tmp_path)
    assert uncommitted([Path("a/listed.yaml")]) == ()
    listed.write_text("x: 2\n")
    assert uncommitted([listed]) == (listed,)
    git("add", ".")
    assert uncommitted([listed]) == (listed,), "staged, and in no commit"


def test_a_git_that_cannot_be_started_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("not a program")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__)) == (None, None) and uncommitted([Path(__file__)]) == (Path(__file__),)
