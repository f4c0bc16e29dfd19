"""What the `data` commands have in common: a data set and its folder, a progress bar."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from datamodules.data_sets import DATA_SETS


def add_data_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=DATA_SETS)
    parser.add_argument("root", type=Path, help="its folder; docs/data.md shows what lies where")


def check_folder(root: Path) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder '{root}'; docs/data.md says how to lay the data set out")


def progress_bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
