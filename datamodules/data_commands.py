"""`python -m stvg_nst data`: a data set's files, looked at and made without any model."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.annotated.manifest import manifest_file
from datamodules.annotated.statistics import SplitStatistics, plot_statistics, split_statistics
from datamodules.annotated.verify import Fault, Verification, verify
from datamodules.command_arguments import add_data_set, check_folder, progress_bar
from datamodules.data_sets import open_source
from datamodules.pixel_commands import add_degrade, cache_command
from stvg_nst.arguments import CommandParser, positive, positive_int
from stvg_nst.cores import granted_cores
from stvg_nst.outputs import check_outputs


def data_command(arguments: Sequence[str], program: str) -> int:
    """Runs one of the commands; its exit status.

    Args:
        arguments: of the command line, the command's name first.
        program: what was typed before them, for the help.
    """
    if arguments[:1] == ["cache"]:  # takes the overlays of a run, which argparse cannot
        return cache_command(arguments[1:], f"{program} cache")
    parser = CommandParser(prog=program, description="Look at a data set's files.")
    commands = parser.add_subparsers(required=True, metavar="{verify,stats,degrade,cache}")
    _add_verify(commands.add_parser("verify", help="find what would spoil a run"))
    _add_stats(commands.add_parser("stats", help="count and draw what a split holds"))
    add_degrade(commands.add_parser("degrade", help="write its LQ counterpart as files"))
    commands.add_parser("cache", help="store its sampled frames, so that later epochs do not decode")
    options = parser.parse_args(arguments)
    status: int = options.run(options)
    return status


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read all annotations, decode all their videos, and write a manifest of them. Run it again to go on, or to "
        "check only what has changed. Exits with 1 where something is wrong."
    )
    add_data_set(parser)
    parser.add_argument("--split", action="append", choices=["train", "val", "test"], help="only this one; repeatable")
    parser.add_argument("--manifest", type=Path, help="file to write (default: ROOT/DATASET.manifest.json)")
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes that decode")
    parser.add_argument("--time-limit", type=positive, default=600.0, metavar="SECONDS", help="for one video")
    parser.add_argument("--subset", action="store_true", help="the folder holds a part of the data set on purpose")
    parser.set_defaults(run=_verify)


def _add_stats(parser: argparse.ArgumentParser) -> None:
    parser.description = "Count a published split; boxes and videos may be absent."
    add_data_set(parser)
    parser.add_argument("--split", choices=["train", "val", "test"], required=True)
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="also draw the distributions")
    parser.set_defaults(run=_stats)


def _verify(options: argparse.Namespace) -> int:
    check_folder(options.root)
    source = open_source(options.dataset, options.root)
    manifest = options.manifest or manifest_file(options.root, source.name)
    check_outputs({"--manifest": manifest})
    console = Console()
    with progress_bar() as bar:
        videos = bar.add_task("reading annotations", total=None)
        found = verify(
            source,
            options.split or source.splits,
            manifest,
            expect_official_counts=not options.subset,
            workers=options.workers,
            time_limit=options.time_limit,
            progress=lambda done, total: bar.update(videos, description="videos", completed=done, total=total),
        )
    if found.faults:
        console.print(_fault_table(found.faults, options.root))
    _say_touched(console, found.touched)
    console.print(_summary(found, manifest), soft_wrap=True, markup=False, highlight=False)
    return int(found.failed)


def _fault_table(faults: Sequence[Fault], root: Path) -> Table:
    table = Table(title=f"What is wrong in {escape(str(root))}", title_justify="left")
    table.add_column("where", overflow="fold")
    table.add_column("what", overflow="fold")
    for fault in sorted(faults, key=lambda fault: fault.is_note):  # notes last
        table.add_row(
            escape(fault.where.removeprefix(f"{root}{os.sep}")),
            escape(f"(note) {fault.what}" if fault.is_note else fault.what),
        )
    return table


def _summary(found: Verification, manifest: Path) -> str:
    kinds = Counter("notes" if fault.is_note else "faults" for fault in found.faults)
    return (
        f"{found.num_sentences:,} sentences, {found.num_videos:,} videos ({found.num_checked:,} decoded now): "
        f"{kinds['faults']:,} faults, {kinds['notes']:,} notes; manifest: {manifest}"
    )


def _stats(options: argparse.Namespace) -> int:
    check_folder(options.root)
    check_outputs({"--plot": options.plot})
    source = open_source(options.dataset, options.root)
    statistics = split_statistics(source, options.split)
    title = f"{source.name}, {options.split}"
    console = Console()
    console.print(_numbers(statistics, title), _percentiles(statistics))
    for absent in statistics.absent:
        console.print(f"absent: {absent}", soft_wrap=True, markup=False, highlight=False)
    _say_touched(console, statistics.touched)
    if options.plot is not None:
        plot_statistics(statistics, title, options.plot)
        console.print(f"picture: {options.plot}", soft_wrap=True, markup=False, highlight=False)
    return 0


def _say_touched(console: Console, lines: Sequence[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _numbers(statistics: SplitStatistics, title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    declarative, interrogative = statistics.num_declarative, statistics.num_interrogative
    for name, number in (
        ("videos", statistics.num_videos),
        ("clips", statistics.num_clips),
        ("sentences", declarative + interrogative),
        ("  declarative", declarative),
        ("  interrogative", interrogative),
    ):
        table.add_row(name, f"{number:,}")
    return table


def _percentiles(statistics: SplitStatistics) -> Table:
    table = Table()
    table.add_column("")
    table.add_column("unit")
    for name in ("min", "25 %", "median", "75 %", "max"):
        table.add_column(name, justify="right")
    for distribution in statistics.distributions:
        table.add_row(distribution.title, distribution.unit, *(f"{value:.4g}" for value in distribution.percentiles()))
    return table
