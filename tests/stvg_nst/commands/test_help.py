"""The help of every command says what the command does, in words of ours, and how its options are written."""

from __future__ import annotations

import pytest

from stvg_nst import __main__ as root


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        root._load(root.COMMANDS[command])(["--help"], f"python -m stvg_nst {command}")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "purpose"),
    [
        ("fit", "Tune a grounder"),
        ("validate", "Measure a grounder on the validation split"),
        ("test", "Measure a grounder on the test split"),
        ("grounding", "Pretrain a miniature's grounding model"),
        ("boxes", "Train a miniature's grounding model further"),
        ("encoders", "Pretrain a miniature's visual encoders"),
        ("cache features", "Store the outputs of the frozen visual encoders"),
        ("layers", "List the null space of every layer"),
        ("export", "Write a tuned grounder as one file"),
    ],
)
def test_a_command_over_lightning_says_what_it_does(
    command: str, purpose: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, capsys)
    (first,) = [paragraph for paragraph in text.split("\n\n") if paragraph.startswith(purpose)]
    assert text.index(first) < text.index("\noptions:")
    assert "Lightning Trainer command line tool" not in text


@pytest.mark.parametrize("command", ["cache frames", "convert", "initialise"])
def test_types_and_titles_are_no_addresses_of_python(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert "<function" not in text and "<class 'stvg_nst" not in text
