"""Old names of commands and options: they work as they did, and a line on stderr says the present name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS = {
    ("cache",): ("cache", "features"),
    ("data", "cache"): ("cache", "frames"),
    ("degrade",): ("degrade", "video"),
    ("data", "degrade"): ("degrade", "dataset"),
}
OPTIONS = {
    "cache features": {"--splits": "--split"},
    "cache frames": {"--splits": "--split"},
    "certify": {"--json": "--output"},
    "initialise": {"--video_swin": "--video-swin"},
}


def present_command(words: Sequence[str]) -> list[str]:
    """The words of a command line, the command by its present name."""
    if tuple(words[:2]) not in COMMANDS.values():
        for length in (2, 1):
            if (new := COMMANDS.get(tuple(words[:length]))) is not None:
                _say(" ".join(words[:length]), " ".join(new))
                return [*new, *words[length:]]
    return [*words]


def present_options(command: str, arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, its options by their present names; a list in brackets becomes one word an entry."""
    names = OPTIONS.get(command, {})
    present: list[str] = []
    for word in arguments:
        name, equals, value = word.partition("=")
        if name in names:
            _say(name, names[name])
            present.append(names[name])
            if not equals:
                continue
            word = value
        present += _entries(word) if present[-1:] == ["--split"] else [word]
    return present


def _entries(text: str) -> list[str]:
    """
    >>> _entries("[train, val]"), _entries("test")
    (['train', 'val'], ['test'])
    """
    return [entry.strip(" '\"") for entry in text.strip("[]").split(",")]


def _say(old: str, new: str) -> None:
    print(f"`{old}` is the old name of `{new}`", file=sys.stderr)
