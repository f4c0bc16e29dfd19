"""`predict`: what a sentence speaks of in anyone's video, or what a table of them does."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from stvg_nst.command_line.arguments import CommandParser, positive, positive_int, weight
from stvg_nst.commands.data_options import progress_bar, say
from stvg_nst.counting import counted
from stvg_nst.evaluation import render_predictions
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.outputs import OutputError, check_folder_is_writable
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.models.weights import modules_fingerprint
from stvg_nst.prediction import Answer, VideoGrounder, load
from stvg_nst.prediction.loading import SHIPPED, Precision
from stvg_nst.prediction.table import AnswerFile, Asking, BadRowPolicy, Row, TableError, answer_rows, read_table
from stvg_nst.results.run_folder import RunFile
from stvg_nst.run_lock import alone_in_run

ANSWERS = "answers.jsonl"
# What this command leaves in its folder.
_WRITTEN = re.compile(rf"answer(-\d+)?\.(mp4|png)|{re.escape(ANSWERS)}|{re.escape(RunFile.PREDICTIONS)}")


def predict(arguments: Sequence[str], program: str) -> int:
    parser = _parser(program)
    options = parser.parse_args(arguments)
    rows = _rows(parser, options)
    folder = options.output or Path("predictions") / (options.table or options.video).stem
    check_folder_is_writable(folder)
    _refuse_inputs(folder, [options.table, *(row.video for row in rows)])
    if not options.overwrite and options.table is None and (folder / ANSWERS).exists():
        raise FileExistsError(f"'{folder}' holds answers already; choose another --output, or give --overwrite")
    adapters = {} if options.adapter is None else {options.adapter.stem: options.adapter}
    grounder = load(options.model, adapters=adapters, device=options.device, dtype=options.dtype)
    if options.compare and grounder.adapter is None:
        raise ValueError(f"--compare needs a tuned model, but '{options.model}' is a frozen one; give --adapter")
    print(f"model: {grounder}", file=sys.stderr)
    if options.model in SHIPPED:
        knows = "it knows moving shapes that the suite renders: in films of anything else its answers are noise"
        print(f"{knows}; give --model for those", file=sys.stderr)
    with alone_in_run(folder):
        if options.overwrite:
            _clear(folder)
        _answer(grounder, rows, folder, options)
    print(f"written to {folder}", file=sys.stderr)
    return 0


def _parser(program: str) -> CommandParser:
    parser = CommandParser(
        prog=program,
        description="Find when and where in a video is what a sentence describes. Prints the time, and writes "
        "predictions.json, a film and a strip of frames with the boxes. docs/predict.md is the manual.",
    )
    parser.add_argument("video", type=Path, nargs="?", help="any film that FFmpeg reads")
    parser.add_argument("sentence", nargs="*", help="what to find; several share the decoding")
    parser.add_argument("--table", type=Path, help="CSV or JSON lines with video and sentence, instead of both")
    parser.add_argument(
        "--model",
        default="mini",
        help="mini, tubedetr_mini, a run's folder, a weights file or hub:user/name (default: mini)",
    )
    parser.add_argument(
        "--adapter", type=Path, help="a file or hub:user/name: answer with this adapter over the model's weights"
    )
    parser.add_argument("--compare", action="store_true", help="ask the frozen model too, and draw its boxes dashed")
    parser.add_argument("--start", type=weight, metavar="SECONDS", help="look only at the part from here")
    parser.add_argument("--stop", type=positive, metavar="SECONDS", help="look only at the part up to here")
    parser.add_argument("--fps", type=positive, metavar="RATE", help="frames per second, instead of the file's own")
    parser.add_argument(
        "--window",
        type=positive,
        metavar="SECONDS",
        help="length of the windows of a longer film; default: the model's own",
    )
    parser.add_argument("--overlap", type=weight, metavar="SECONDS", help="of these windows; default: half of one")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: predictions/NAME of the video or table")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--json", action="store_true", help="print each answer as a line of JSON")
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument("--no-pictures", action="store_true", help="for a video: write neither film nor strip")
    pictures.add_argument("--pictures", action="store_true", help="for a table: write a film and a strip of each row")
    parser.add_argument(
        "--on-bad-video",
        choices=get_args(BadRowPolicy),
        default="refuse",
        help="for a table: stop at a row that cannot be answered, or count it and continue (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="films read at a time")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
    parser.add_argument(
        "--dtype", choices=get_args(Precision), default="float32", help="of the network's matrix products"
    )
    return parser


def _rows(parser: CommandParser, options: argparse.Namespace) -> tuple[Row, ...]:
    """What is asked, by the table or by the command line."""
    if options.table is not None:
        given = [name for name in ("video", "start", "stop") if getattr(options, name) is not None]
        if given:
            parser.error(f"a table says itself what is asked: leave out {given[0]}, or --table")
        if options.no_pictures:
            parser.error("--no-pictures is for a video; a table has pictures by --pictures alone: leave it out")
        return read_table(options.table)
    if options.video is None or not options.sentence:
        parser.error("expected a video and a sentence, or --table TABLE")
    if options.video.is_dir():
        parser.error(f"'{options.video}' is a folder: name one film, or ask about many by --table TABLE")
    if options.pictures:
        parser.error("--pictures is for a table; a video has pictures anyhow: leave it out")
    if options.on_bad_video != "refuse":
        parser.error(f"--on-bad-video {options.on_bad_video} is for the rows of a table: leave it out, or give --table")
    name = options.video.stem
    return tuple(
        Row(f"{name}/{number}", options.video, sentence, options.start, options.stop)
        for number, sentence in enumerate(options.sentence, start=1)
    )


def _refuse_inputs(folder: Path, inputs: Sequence[Path | None]) -> None:
    """Keeps answers from taking the place of what they are about.

    Raises:
        OutputError: a film or the table lies in the folder under the name of an answer.
    """
    places = {os.path.realpath(path) for path in _earlier(folder)}
    for path in inputs:
        if path is not None and os.path.realpath(path) in places:
            raise OutputError(
                f"an answer in '{folder}' would replace '{path}', which is asked about; choose another --output"
            )


def _clear(folder: Path) -> None:
    for path in _earlier(folder):
        path.unlink(missing_ok=True)


def _earlier(folder: Path) -> Iterator[Path]:
    """Files of an earlier command in the folder."""
    return (path for path in folder.glob("*") if _WRITTEN.fullmatch(path.name))


def _answer(grounder: VideoGrounder, rows: Sequence[Row], folder: Path, options: argparse.Namespace) -> None:
    is_table, network = options.table is not None, grounder.network
    asking = Asking(options.fps, options.window, options.overlap, options.compare)
    weights = modules_fingerprint((network.grounder,))
    rounded = {} if options.dtype == "float32" else {"dtype": options.dtype}  # older answers do not say it
    answers = AnswerFile(folder / ANSWERS, {"model": str(grounder), "weights": weights, **asdict(asking), **rounded})
    left = answers.left_of(rows)
    pictures = options.pictures if is_table else not options.no_pictures
    names = {row.item_id: f"answer-{number}" if len(rows) > 1 else "answer" for number, row in enumerate(rows, start=1)}

    def draw(row: Row, answer: Answer) -> None:
        if pictures:
            answer.draw(folder / f"{names[row.item_id]}.mp4", compare=options.compare)
            answer.strip(folder / f"{names[row.item_id]}.png", compare=options.compare)

    num_bad = 0
    console = Console()
    with progress_bar() as bar:
        rows_bar = bar.add_task("rows", total=len(rows), completed=len(rows) - len(left), visible=is_table)
        windows_bar = bar.add_task("windows", total=None, visible=not is_table)

        def progress(done: int, windows: int) -> None:
            bar.update(windows_bar, completed=done, total=windows)

        told = None if is_table else progress
        for row, answer in answer_rows(grounder, left, asking, workers=options.workers, draw=draw, progress=told):
            if isinstance(answer, Exception):
                _refuse(row, answer, options)
                num_bad += 1
            line = answers.add(row, answer)
            say(console, line.rstrip("\n") if options.json else _words(row, answer))
            bar.update(rows_bar, advance=1)
    entries = [_entry(answers.lines[row.item_id]) for row in rows if row.item_id in answers.lines]
    write_whole(folder / RunFile.PREDICTIONS, render_predictions(network.method, entries))
    if is_table:
        print(f"{len(entries):,} of {counted(len(rows), 'row')} answered, {num_bad:,} bad", file=sys.stderr)


def _refuse(row: Row, error: Exception, options: argparse.Namespace) -> None:
    """Raises what is wrong with a row, unless bad rows of a table are to be skipped."""
    if options.table is None:
        raise error
    if options.on_bad_video == "refuse":
        raise TableError(
            f"row '{row.item_id}': {error}; mend it, or go on without such rows by --on-bad-video skip"
        ) from error


def _words(row: Row, answer: Answer | Exception) -> str:
    """What is printed of an answer."""
    if isinstance(answer, Exception):
        return f"{row.item_id}: bad: {answer}"
    frozen = "" if answer.frozen is None else f"\n  frozen: {answer.frozen.summary()}"
    return f"{row.item_id}: {answer.sentence}\n  {answer.summary()}{frozen}"


def _entry(line: Mapping[str, Any]) -> dict[str, Any]:
    """Of ``predictions.json``, from a line of the answers."""
    return {name: line[name] for name in ("item_id", "start", "stop", "boxes")}
