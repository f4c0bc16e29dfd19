"""A parser of the command line whose ``--config`` overlays are merged as a study's are."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from stvg_nst.command_line.arguments import refusal
from stvg_nst.configuration import (
    Config,
    ConfigurationError,
    RepeatedKeyError,
    dump_yaml,
    is_yaml_file,
    load_yaml,
    look_up,
    merge,
    nested,
    parse_overlay,
    read_overlay,
)

_LINE = 300  # characters; a longer message has lines that are easier to read
# What a run's `config.yaml` says of the command that wrote it, beside what it was built of.
_OF_A_COMMAND = frozenset({"run", "ckpt_path", "weights_only", "changed_settings", "verbose", "table"})


class OverlayParser(LightningArgumentParser):
    """Merges all overlays first, by :func:`stvg_nst.configuration.merge`; the options go over them.

    jsonargparse by itself keeps the last of a key that an overlay gives twice, hands the arguments of one class on to
    another that knows the same names, and replaces a mapping where a study merges it.
    """

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, *positional: Any, **keywords: Any
    ) -> Namespace:
        given = [*(sys.argv[1:] if args is None else args)]
        # A parser with subcommands leaves the overlays to these; that of a component has none.
        if self._subcommands_action is not None or not any(isinstance(a, ActionConfigFile) for a in self._actions):
            return super().parse_args(given, *positional, **keywords)
        try:
            known = {action.dest for action in self._actions}
            merged, overlays = merged_arguments(given, ignored=_OF_A_COMMAND - known)
        except ConfigurationError as error:
            self.exit(2, f"error: {error}\n")
        options = super().parse_args(merged, *positional, **keywords)
        options.config = overlays
        return options

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """What is wrong, without the usage of a hundred options; what the inner parser of a component says is kept."""
        parser = self
        if self._subcommands_action is not None and self.args:
            parser = self._subcommands_action.choices.get(self.args[0], self)
        message = refusal(message, parser._option_string_actions)
        if len(line := " ".join(message.split())) <= _LINE:
            message = line
        if not self.exit_on_error:
            super().error(message, ex)
        self.exit(2, f"error: {message}; see {parser.prog.replace(' [options]', '')} --help\n")


def merged_arguments(arguments: Sequence[str], *, ignored: Container[str] = ()) -> tuple[list[str], list[Path]]:
    """The same arguments with one overlay, ahead of them, in place of all; and the files that it is made of.

    Options that give a component or a mapping, such as ``--model.tuner LoRA``, become part of that overlay: they drop
    what belongs to another class as an overlay would.

    Args:
        ignored: names that an overlay may have, and that mean nothing to this command.

    Raises:
        ConfigurationError: an overlay cannot be read, or an option gives a key twice.
    """
    config: Config = {}
    files: list[Path] = []
    options: list[_Option] = []
    for option in _options(arguments):
        if option.name in ("config", "c") and option.value is not None:
            if _is_text(option.value):
                config = merge(config, parse_overlay(option.value, "--config"))
            else:
                files.append(Path(option.value))
                config = merge(config, read_overlay(files[-1]))
        else:
            options.append(option)
    words: list[str] = []
    for option in options:
        content = option.content()
        is_component = option.name.endswith(".class_path") or isinstance(look_up(config, option.name), Mapping)
        if is_component and isinstance(content, str | Mapping):
            config = merge(config, nested(option.name, content))
        else:
            words += option.words
    config = {name: value for name, value in config.items() if name not in ignored}
    if not config:
        return words, files
    # In flow style it begins with a brace, and no parser takes it for the name of a file.
    text = dump_yaml(config, in_a_line=True)
    return [f"--config={text}", *words], files


def _is_text(value: str) -> bool:
    """Whether an overlay is written out on the command line, and no name of a file."""
    return value.lstrip().startswith("{") or (": " in value and not os.path.isfile(value))


@dataclass(frozen=True, slots=True)
class _Option:
    """A word of the command line, with its value where it has one.

    Args:
        words: as they were given.
        name: without its dashes; empty for a word that is no option.
    """

    words: tuple[str, ...]
    name: str = ""
    value: str | None = None

    def content(self) -> Any:
        """What the value says: that of a YAML file which it names, that of YAML, or else its text.

        Raises:
            ConfigurationError: the file cannot be read, or a key is given twice.
        """
        if self.value is None:
            return None
        if is_yaml_file(Path(self.value)):
            return read_overlay(Path(self.value))
        try:
            return load_yaml(self.value, f"--{self.name}")
        except RepeatedKeyError:
            raise
        except ConfigurationError:
            return self.value


def _options(arguments: Sequence[str]) -> Iterator[_Option]:
    words = deque(arguments)
    while words:
        word = words.popleft()
        option, equals, value = word.partition("=")
        if not option.startswith("-"):
            yield _Option((word,))
        elif equals:
            yield _Option((word,), option.lstrip("-"), value)
        elif words and not words[0].startswith("-"):
            value = words.popleft()
            yield _Option((word, value), option.lstrip("-"), value)
        else:
            yield _Option((word,), option.lstrip("-"))
