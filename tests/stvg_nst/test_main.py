"""The table of commands, and the names by which they are called."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stvg_nst import __main__ as root

REPOSITORY = Path(__file__).resolve().parents[2]
Called = list[tuple[str, list[str], str]]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """The place, arguments and program of every command that is called; none is run."""
    calls: Called = []

    def load(place: str) -> Callable[[Sequence[str], str], int]:
        return lambda arguments, program: calls.append((place, [*arguments], program)) or 0  # type: ignore[func-returns-value]

    monkeypatch.setattr(root, "_load", load)
    return calls


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *words])
    return root.main()


@pytest.mark.parametrize("name", root.COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    assert [*inspect.signature(root._load(root.COMMANDS[name])).parameters] == ["arguments", "program"]


@pytest.mark.parametrize("name", root.COMMANDS)
def test_a_command_is_called_by_its_name(name: str, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, *name.split(), "a", "--option=b") == 0
    assert called == [(root.COMMANDS[name], ["a", "--option=b"], f"python -m stvg_nst {name}")]


def test_the_usage_names_every_command_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert re.findall(r"(?m)^  (\w+(?: \w+)?)  ", shown) == [*root.COMMANDS]
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize("words", [(), ("data",), ("cache",), ("degrade",)])
def test_without_a_command_the_choices_are_shown(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked, status in (((), 2), (("--help",), 0), (("-h",), 0)):
        assert run(monkeypatch, *words, *asked) == status
        shown = re.findall(r"(?m)^  (\w+(?: \w+)?)  ", capsys.readouterr().out)
        assert shown == [name for name in root.COMMANDS if not words or name.split()[0] == words[0]]


OLD = {
    "cache --config x --splits [test]": ("cache features", ["--config", "x", "--split", "test"]),
    "cache --splits=[train,val] --config=x": ("cache features", ["--split", "train", "val", "--config=x"]),
    "data cache --config x --workers 2": ("cache frames", ["--config", "x", "--workers", "2"]),
    "data cache --help": ("cache frames", ["--help"]),
    "degrade in.mp4 out.mp4 --kind defocus": ("degrade video", ["in.mp4", "out.mp4", "--kind", "defocus"]),
    "degrade --kind defocus in.mp4 out.mp4": ("degrade video", ["--kind", "defocus", "in.mp4", "out.mp4"]),
    "data degrade vidstg a b --split val": ("degrade dataset", ["vidstg", "a", "b", "--split", "val"]),
    "certify run --json a.json": ("certify", ["run", "--output", "a.json"]),
    "initialise a --video_swin=b": ("initialise", ["a", "--video-swin", "b"]),
}


@pytest.mark.parametrize("line", OLD)
def test_old_words_do_what_they_did_and_name_the_present_ones(
    line: str, called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, arguments = OLD[line]
    assert run(monkeypatch, *line.split()) == 0
    assert called == [(root.COMMANDS[name], arguments, f"python -m stvg_nst {name}")]
    said = capsys.readouterr()
    assert "is the old name of" in said.err and said.out == ""


def test_a_list_in_brackets_may_hold_blanks(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "cache", "--splits", "[train, 'val']")
    assert called[0][1] == ["--split", "train", "val"]


@pytest.mark.parametrize(
    "line", ["evaluate a b --json c", "cache features --split test", "degrade video a b", "layers -h"]
)
def test_of_present_words_nothing_is_said(
    line: str, called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *line.split()) == 0
    assert capsys.readouterr().err == ""


def test_the_words_of_the_process_stay_for_the_others_of_ddp(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning starts the other processes with them: those of `grounding` must not become processes of `fit`."""
    for name in ("fit", "validate", "test", "encoders", "grounding", "boxes"):
        run(monkeypatch, name, "--config", "x")
        assert sys.argv == ["stvg_nst", name, "--config", "x"]


def test_pages_name_commands_that_exist() -> None:
    pages = [REPOSITORY / "README.md", REPOSITORY / "Makefile", *(REPOSITORY / "docs").glob("*.md")]
    for page in pages:
        for first, second in re.findall(r"(?:-m stvg_nst|\$\(STVG\)) (\w+)(?: (\w+))?", page.read_text()):
            assert {first, f"{first} {second}"} & root.COMMANDS.keys(), f"{page.name}: {first} {second}"
