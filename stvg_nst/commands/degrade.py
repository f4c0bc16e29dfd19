"""`degrade video` and `degrade dataset`: what the benchmark makes of a user's own video, and of a data set as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from rich.markup import escape
from rich.table import Table

from datamodules.data_sets import open_source
from datamodules.degradation.dataset import DegradedCopy
from datamodules.degradation.kinds import DEGRADATIONS, UNSEEN
from datamodules.degradation.video import degrade_video
from stvg_nst.command_line.arguments import CommandParser, positive, positive_int, seed
from stvg_nst.commands.data_options import add_data_set, add_splits, check_folder, progress_bar, say
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.disk_room import check_room, room_words
from stvg_nst.machine.outputs import check_folder_is_writable
from stvg_nst.report.sheet import sheet_console
from stvg_nst.types import Kernels

_KERNELS = "relative to the frame's size, or as for a short side of 360 pixels (default: %(default)s)"


def video(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(prog=program, description="Degrade a video as the benchmark does.")
    parser.add_argument("source", type=Path, help="the video to read")
    parser.add_argument("target", type=Path, help="the .mp4 to write; it must not exist")
    parser.add_argument("--kind", choices=(*DEGRADATIONS, *UNSEEN), required=True)
    parser.add_argument("--severity", type=int, choices=range(1, 6), required=True, help="1 is mild, 5 is severe")
    parser.add_argument("--seed", type=seed, default=0, help="fixes what the severity leaves open, e.g. the angle")
    parser.add_argument("--kernels", choices=get_args(Kernels), default="relative", help=_KERNELS)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing target")
    options = parser.parse_args(arguments)
    degrade_video(
        options.source,
        options.target,
        kind=options.kind,
        severity=options.severity,
        seed=options.seed,
        kernels=options.kernels,
        overwrite=options.overwrite,
    )
    return 0


def dataset(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Write the LQ counterpart of a split as video files: every clip as the benchmark's test shows it. "
        "Run it again to continue. Exits with 1 if a clip could not be written.",
    )
    add_data_set(parser)
    parser.add_argument("out", type=Path, help="folder of the copy; --data.init_args.degraded reads it")
    add_splits(parser, required=True, help="splits to write")
    parser.add_argument("--crf", type=int, choices=range(52), metavar="0..51", help="lossy H.264 (default: lossless)")
    parser.add_argument(
        "--benchmark-seed", type=seed, default=0, help="draw of the benchmark; results are compared under 0"
    )
    parser.add_argument("--kernels", choices=get_args(Kernels), default="relative", help=_KERNELS)
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes")
    parser.add_argument("--time-limit", type=positive, default=3600.0, metavar="SECONDS", help="for one clip")
    parser.add_argument("--estimate", action="store_true", help="only print the size")
    options = parser.parse_args(arguments)
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
    console = sheet_console()
    if options.crf is not None:
        say(console, "warning: H.264 at a crf is lossy; results on these files are named so and compare with no others")
    num_bytes = copy.estimate()
    say(
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
    say(console, f"{len(copy.clips) - len(failures):,} of {len(copy.clips):,} clips are in {options.out}")
    return int(bool(failures))


def _failure_table(failures: Mapping[str, str]) -> Table:
    table = Table(title="What could not be written", title_justify="left")
    table.add_column("clip", overflow="fold")
    table.add_column("why", overflow="fold")
    for clip_id, cause in failures.items():
        table.add_row(escape(clip_id), escape(cause))
    return table
