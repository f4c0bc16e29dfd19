"""What the commands on data have in common: a data set and its folder, splits, a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules import STVGDataModule
from datamodules.data_sets import DATA_SETS
from datamodules.splits import Split
from stvg_nst.configuration import ConfigurationError

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def add_data_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=DATA_SETS)
    parser.add_argument("root", type=Path, help="its folder; docs/data.md shows what lies where")


def add_splits(parser: Any, *, choices: Sequence[Split] = SPLITS, **options: Any) -> None:
    """``--split train val``, or once for each; the parser is of argparse or of jsonargparse."""
    parser.add_argument("--split", nargs="+", action="extend", choices=choices, **options)


def chosen_splits(options: argparse.Namespace | Namespace) -> tuple[Split, ...]:
    """Each that was named, once; if none was, those of ``SPLITS``."""
    return tuple(dict.fromkeys(options.split or SPLITS))


def check_folder(root: Path) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder '{root}'; docs/data.md says how to lay the data set out")


def data_module_class(name: str) -> Any:
    """The class of a data module, by its path or, as on the command line, by its name alone.

    Raises:
        ConfigurationError: there is none of that name.
    """
    try:
        kind = resolve_name(name if "." in name else f"datamodules.{name}")
    except (ImportError, AttributeError, ValueError):
        kind = None
    if not (isinstance(kind, type) and issubclass(kind, STVGDataModule)):
        raise ConfigurationError(f"there is no data module '{name}'; datamodules/__init__.py has those of the suite")
    return kind


def progress_bar() -> Progress:
    """On a terminal, as long as the work goes on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def say(console: Console, line: str) -> None:
    """Prints a line as it is, however long."""
    console.print(line, soft_wrap=True, markup=False, highlight=False, emoji=False)
