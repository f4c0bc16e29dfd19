"""`data verify`, `data stats` and `data synthetic`: a data set's files, without any model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from datamodules.annotated.manifest import manifest_file
from datamodules.annotated.statistics import SplitStatistics, plot_statistics, split_statistics
from datamodules.annotated.verify import Fault, Verification
from datamodules.annotated.verify import verify as look_through
from datamodules.data_sets import open_source
from datamodules.synthetic import SYNTHETIC_SETS, write_synthetic
from stvg_nst.command_line.arguments import CommandParser, positive, positive_int
from stvg_nst.commands.data_options import SPLITS, add_data_set, add_splits, check_folder, progress_bar, say
from stvg_nst.counting import counted
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.report.sheet import sheet_console


def verify(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Read all annotations, decode all their videos, and write a manifest of them. Run it again to "
        "continue, or to check only what has changed. Exits with 1 if something is wrong.",
    )
    add_data_set(parser)
    add_splits(parser, help="look only at these splits")
    parser.add_argument("--manifest", type=Path, help="file to write (default: ROOT/DATASET.manifest.json)")
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes that decode")
    parser.add_argument("--time-limit", type=positive, default=600.0, metavar="SECONDS", help="for one video")
    parser.add_argument("--subset", action="store_true", help="the folder holds a part of the data set on purpose")
    options = parser.parse_args(arguments)
    check_folder(options.root)
    source = open_source(options.dataset, options.root)
    manifest = options.manifest or manifest_file(options.root, source.name)
    check_outputs({"--manifest": manifest})
    console = sheet_console()
    with progress_bar() as bar:
        videos = bar.add_task("reading annotations", total=None)
        found = look_through(
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
    for line in (*found.notes, _summary(found, manifest)):
        say(console, line)
    return int(found.failed)


def stats(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(prog=program, description="Count a published split; boxes and videos may be absent.")
    add_data_set(parser)
    parser.add_argument("--split", choices=SPLITS, required=True)
    parser.add_argument("--plot", type=Path, metavar="OUT.png", help="also draw the distributions")
    options = parser.parse_args(arguments)
    check_folder(options.root)
    check_outputs({"--plot": options.plot})
    source = open_source(options.dataset, options.root)
    statistics = split_statistics(source, options.split)
    title = f"{source.name}, {options.split}"
    console = sheet_console()
    console.print(_numbers(statistics, title), _percentiles(statistics))
    for line in (*(f"absent: {absent}" for absent in statistics.absent), *statistics.touched):
        say(console, line)
    if options.plot is not None:
        plot_statistics(statistics, title, options.plot)
        say(console, f"picture: {options.plot}")
    return 0


def synthetic(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Write rendered clips and their sentences in the layout of a published data set, so that commands "
        "for the real one can be tried. All that is measured on them is marked SYNTHETIC.",
    )
    parser.add_argument("dataset", choices=SYNTHETIC_SETS)
    parser.add_argument("root", type=Path, help="an empty or new folder")
    parser.add_argument("--train", type=positive_int, default=24, metavar="N", help="training clips (default: 24)")
    parser.add_argument("--test", type=positive_int, default=8, metavar="N", help="test clips (default: 8)")
    options = parser.parse_args(arguments)
    splits = open_source(options.dataset, options.root).splits
    clips = {split: options.train if split == "train" else options.test for split in splits}
    said = "written" if write_synthetic(options.dataset, options.root, clips) else "there already"
    sizes = ", ".join(f"{count} {split}" for split, count in clips.items())
    say(sheet_console(), f"{said}: '{options.root}', {options.dataset}, SYNTHETIC, clips: {sizes}")
    return 0


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
    num_notes = sum(fault.is_note for fault in found.faults)
    num_faults = len(found.faults) - num_notes
    return (
        f"{counted(found.num_sentences, 'sentence')}, {counted(found.num_videos, 'video')} ({found.num_checked:,} "
        f"decoded now): {counted(num_faults, 'fault')}, {counted(num_notes, 'note')}; manifest: {manifest}"
    )


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
