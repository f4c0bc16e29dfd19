"""Arguments of the commands: checked as they are read, and refused in one line."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Iterable
from typing import NoReturn

MOST_SEED = 2**32 - 1
"""What NumPy, and so Lightning, takes."""
MOST_PORT = 2**16 - 1


# How argparse, and jsonargparse of an option in a configuration, name an option that they do not know.
_UNKNOWN = (
    r"^unrecognized arguments: --?([^\s=]+)",
    r"^Option '(\S+)' is not accepted$",
    r"^Group '(\S+)' does not accept option '(\S+)'$",
    r"^Subcommand '\S+' does not accept option '(\S+)'$",
)


def nearest(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'name'?)`` where one of the known names is close, else nothing."""
    close = difflib.get_close_matches(name, [*known], n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def refusal(message: str, options: Iterable[str]) -> str:
    """What argparse says of wrong arguments, with the option that was meant where one is unknown."""
    for pattern in _UNKNOWN:
        if unknown := re.search(pattern, message):
            name = re.sub(r"\.(class_path|init_args)\b.*", "", ".".join(unknown.groups()))
            return message + nearest(f"--{name}", options)
    return message


class CommandParser(argparse.ArgumentParser):
    """Refuses wrong arguments in one line, without the usage, and takes no shortened option, which may be misspelt."""

    def __init__(self, *, prog: str, description: str | None = None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {refusal(message, self._option_string_actions)}; see {self.prog} --help\n")


class WrongArgumentError(argparse.ArgumentTypeError, ValueError):
    """The argument is not what was expected: argparse shows the text of the one, jsonargparse that of the other."""


def whole_number(value: str | int) -> int:
    """Of the command line, where it is text, or of a configuration."""
    try:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return int(value)
    except ValueError:
        pass
    raise WrongArgumentError(f"expected a whole number, got {value!r}")


def count(text: str) -> int:
    if (number := whole_number(text)) < 0:
        raise WrongArgumentError(f"expected at least 0, got {text}")
    return number


def port(text: str) -> int:
    if not 1 <= (number := whole_number(text)) <= MOST_PORT:
        raise WrongArgumentError(f"expected a port from 1 to {MOST_PORT}, got {text}")
    return number


class _WholeNumber:
    """No function, because the help of jsonargparse shows the ``repr`` of a type."""

    def __repr__(self) -> str:
        return "whole number"


class _PositiveInt(_WholeNumber):
    def __call__(self, value: str | int) -> int:
        if (number := whole_number(value)) < 1:
            raise WrongArgumentError(f"expected at least 1, got {value}")
        return number


class _Seed(_WholeNumber):
    def __call__(self, value: str | int) -> int:
        if not 0 <= (number := whole_number(value)) <= MOST_SEED:
            raise WrongArgumentError(f"expected a seed from 0 to {MOST_SEED}, got {value}")
        return number


positive_int = _PositiveInt()
seed = _Seed()


def weight(text: str) -> float:
    if not 0 <= (number := _number(text)) < math.inf:
        raise WrongArgumentError(f"expected a finite number, at least 0, got {text}")
    return number


def positive(text: str) -> float:
    if not 0 < (number := _number(text)) < math.inf:
        raise WrongArgumentError(f"expected a positive, finite number, got {text}")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise WrongArgumentError(f"expected a number, got {text!r}") from None
