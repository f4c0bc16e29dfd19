"""`data degrade` and `data cache`: pixels written to disk, whose size is told beforehand."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from datamodules.base import Split, STVGDataModule
from datamodules.caches.disk_room import check_room, room_words
from datamodules.command_arguments import add_data_set, check_folder, progress_bar
from datamodules.data_sets import open_source
from datamodules.degradation.dataset import DegradedCopy
from stvg_nst.arguments import positive, positive_int, seed
from stvg_nst.cores import granted_cores
from stvg_nst.outputs import check_folder_is_writable
from stvg_nst.overlay_parser import OverlayParser
from stvg_nst.types import Kernels


def add_degrade(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the LQ counterpart of a split as video files: every clip as the benchmark's test shows it. Run it again "
        "to go on. Exits with 1 where a clip could not be written."
    )
    add_data_set(parser)
    parser.add_argument("out", type=Path, help="folder of the copy; --data.init_args.degraded reads it")
    parser.add_argument("--split", action="append", choices=["train", "val", "test"], required=True, help="repeatable")
    parser.add_argument("--crf", type=int, choices=range(52), metavar="0..51", help="lossy H.264 (default: lossless)")
    parser.add_argument("--benchmark-seed", type=seed, default=0, help="of the benchmark; 0 is what results compare by")
    parser.add_argument(
        "--kernels", choices=get_args(Kernels), default="relative", help="of what size (default: %(default)s)"
    )
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes")
    parser.add_argument("--time-limit", type=positive, default=3600.0, metavar="SECONDS", help="for one clip")
    parser.add_argument("--estimate", action="store_true", help="only tell the size")
    parser.set_defaults(run=_degrade)


def _degrade(options: argparse.Namespace) -> int:
    check_folder(options.root)
    check_folder_is_writable(options.out)
    copy = DegradedCopy(
        open_source(options.dataset, options.root),
        tuple(dict.fromkeys(options.split)),
        options.out,
        benchmark_seed=options.benchmark_seed,
        kernels=options.kernels,
        crf=options.crf,
    )
    console = Console()
    if options.crf is not None:
        _say(
            console, "warning: H.264 at a crf is lossy; results on these files are named so and compare with no others"
        )
    num_bytes = copy.estimate()
    _say(
        console,
        f"{len(copy.missing):,} of {len(copy.clips):,} clips to write: about {room_words(num_bytes, options.out)}",
    )
    if options.estimate:
        return 0
    check_room(num_bytes, options.out)
    with progress_bar() as bar:
        clips = bar.add_task("degrading", total=len(copy.clips))
        failures = copy.write(
            workers=options.workers,
            time_limit=options.time_limit,
            progress=lambda done, total: bar.update(clips, completed=done, total=total),
        )
    if failures:
        console.print(_failure_table(failures))
    _say(console, f"{len(copy.clips) - len(failures):,} of {len(copy.clips):,} clips are in {options.out}")
    return int(bool(failures))


def cache_command(arguments: Sequence[str], program: str) -> int:
    """`data cache`: decodes the sampled frames of a data module's splits into its cache."""
    parser = OverlayParser(
        prog=program,
        allow_abbrev=False,
        description="Store the sampled frames of a data set, so that later epochs do not decode it again. Run it again "
        "to go on. Takes the data overlays of a run.",
    )
    parser.add_argument("--config", action="config", help="overlay such as experiments/data/vidstg.yaml")
    parser.add_subclass_arguments(STVGDataModule, "data", required=True)
    parser.add_argument("--splits", type=list[Split], default=["train", "val", "test"], help="which to store")
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes that decode")
    parser.add_argument("--estimate", action="store_true", help="only tell the size")
    options = parser.parse_args(arguments)
    data: STVGDataModule = parser.instantiate(options).data
    data.prepare_data()
    for split in options.splits:
        _cache(data, split, options.workers, only_estimate=options.estimate)
    return 0


def _cache(data: STVGDataModule, split: Split, workers: int, *, only_estimate: bool) -> None:
    data.setup_split(split)
    folder = data.frames_folder(split)
    clips = data.frames_of_clips(split)
    missing = data.open_frames(split).missing(clips)
    num_bytes = sum(clip.num_bytes for clip in missing)
    _say(Console(), f"{split}: {len(missing):,} of {len(clips):,} clips to write: {room_words(num_bytes, folder)}")
    if only_estimate or not missing:
        return
    check_room(num_bytes, folder)
    with progress_bar() as bar:
        task = bar.add_task(f"decoding {split}", total=len(missing))
        data.build_frames(split, missing, workers=workers, progress=lambda done: bar.update(task, completed=done))


def _say(console: Console, line: str) -> None:
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _failure_table(failures: Mapping[str, str]) -> Table:
    table = Table(title="What could not be written", title_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("why", overflow="fold")
    for clip_id, cause in failures.items():
        table.add_row(escape(clip_id), escape(cause))
    return table
