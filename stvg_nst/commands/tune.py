"""`tune`: from a folder of a person's own clips to an adapter, measured beside the frozen model.

It runs other commands, each as a process of its own, and says which. What they are asked for lies in the run's folder,
so that each can be repeated, or changed, by hand.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import Any, get_args

from datamodules.annotated_videos import BadVideoPolicy
from datamodules.own_clips.source import SPLITS, OwnClipsSource
from stvg_nst.command_line.arguments import CommandParser, positive_int, seed
from stvg_nst.commands.data_options import check_folder
from stvg_nst.configuration import Config, merge, read_overlay
from stvg_nst.machine.cores import granted_cores
from stvg_nst.machine.outputs import check_folder_is_writable
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.prediction.loading import SHIPPED, ModelSource, find_source, with_places
from stvg_nst.report import print_report
from stvg_nst.results.run_folder import RunFile
from stvg_nst.run_lock import alone_in_run
from stvg_nst.study.launch import GRACE_SECONDS, PROGRAM, termination_as_interrupt
from stvg_nst.study.runs import BASELINE_FOLDER, RunTest, StudyRun
from stvg_nst.study.weights_sum import file_sum

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TUNED_FOLDER = "tuned"
ANNOTATIONS_SUM = "annotations.sha256"  # of the lines that its runs were made of, as `sha256sum` writes and checks it
# Settings by which nothing else is trained: a job that goes on elsewhere may have other cores and other paths.
_OF_A_MACHINE = ("data.init_args.num_workers:", "data.init_args.root:", "data.init_args.features:")
# As many steps as `make train` takes: fewer leave a tuner near where it began.
_STEPS, _LEAST_EPOCHS = 100, 4


def tune(arguments: Sequence[str], program: str) -> int:
    """Verifies the clips, tests the frozen model on them, tunes it, tests again and prints the table.

    Returns:
        Exit status: 0, or that of the command that failed.
    """
    options = _options(arguments, program)
    check_folder(options.folder)
    check_folder_is_writable(options.run)
    model = find_source(options.model)
    # The adapter that comes with a shipped grounder is beside its weights: tuning begins without it.
    is_tuned = model.adapter is not None and options.model not in SHIPPED
    if is_tuned or model.exported is not None:
        raise ValueError(f"'{options.model}' is tuned already, and tuning begins with a frozen model; name that one")
    with alone_in_run(options.run), termination_as_interrupt():
        verify = ["data", "verify", OwnClipsSource.name, str(options.folder), "--workers", str(options.workers)]
        if (status := _run(verify)) and options.on_bad_video == "refuse":
            return status
        runs = _runs(options, model)
        tuned = runs[-1]
        _refuse_changed(runs)
        _refuse_other_lines(runs, OwnClipsSource(options.folder).annotation_file("train"), options.run)
        is_finished = all(run.finished for run in runs)
        for run in runs:
            if status := _finish(run, options.features):
                return status
    if is_finished and tuned.tests:
        print_report(test.results for run in runs for test in run.tests)
    ask = [*PROGRAM, "predict", "VIDEO", "SENTENCE", "--model", str(tuned.folder), "--compare"]
    print(f"to ask it: {shlex.join(['python', *ask[1:]])}", file=sys.stderr)
    return 0


def _options(arguments: Sequence[str], program: str) -> argparse.Namespace:
    parser = CommandParser(
        prog=program,
        description="Tune a model on your own clips: verify them, test the frozen model, tune it, test it again, and "
        "print the table. The same command continues where it was stopped. docs/own_clips.md is the manual.",
    )
    parser.add_argument("folder", type=Path, help="of annotations.jsonl and the videos")
    parser.add_argument("--run", type=Path, required=True, help="folder for the runs and their results")
    parser.add_argument("--model", default="mini", help="mini, tubedetr_mini, or a weights file (default: mini)")
    parser.add_argument(
        "--tuner",
        type=Path,
        nargs="+",
        default=[EXPERIMENTS / "tuner" / "nst_encoder.yaml"],
        help="overlays of the method and its scope (default: null-space tuning)",
    )
    parser.add_argument("--config", type=Path, nargs="+", default=[], help="overlays for all that is run")
    parser.add_argument("--epochs", type=positive_int, help=f"default: {_STEPS} steps, {_LEAST_EPOCHS} epochs at least")
    parser.add_argument("--batch-size", type=positive_int, default=2, help="sentences of a step (default: %(default)s)")
    parser.add_argument(
        "--features",
        type=Path,
        metavar="FOLDER",
        help="store the outputs of the frozen visual encoders there, with two degraded variants of each clip, for "
        "faster epochs",
    )
    parser.add_argument(
        "--on-bad-video",
        choices=get_args(BadVideoPolicy),
        default="refuse",
        help="stop at bad videos and faulty lines, or leave them out and count them (default: %(default)s)",
    )
    parser.add_argument("--workers", type=positive_int, default=granted_cores(), help="processes that decode")
    parser.add_argument("--seed", type=seed, default=0, help="of the tuning")
    return parser.parse_args(arguments)


def _runs(options: argparse.Namespace, model: ModelSource) -> tuple[StudyRun, ...]:
    """The frozen model's test, and the tuning with its own; where no line is for the test, the tuning alone.

    Raises:
        ValueError: there is nothing to train on, or no clip to set a gate's threshold by.
    """
    source = OwnClipsSource(options.folder)
    lines = {split: source.lines_of(split) for split in SPLITS}
    for split in SPLITS[:2]:  # to train, and to set the threshold of a gate
        if not lines[split]:
            raise ValueError(
                f"no line of '{source.annotation_file(split)}' is of the split '{split}'; give it a video, which may "
                "do without a tube"
            )
    shared = read_overlay(EXPERIMENTS / "base.yaml")
    for above in (_model_and_data(options, model), *map(read_overlay, options.config)):
        shared = merge(shared, above)
    frozen = merge(shared, read_overlay(EXPERIMENTS / "tuner" / "zero_shot.yaml"))
    tuned = shared
    for overlay in options.tuner:
        tuned = merge(tuned, read_overlay(overlay))
    if without := sum(not line.has_tube for line in lines["train"]):
        said = f"{without:,} of {len(lines['train']):,} training sentences have no tube"
        print(f"{said}, so the clean twin alone teaches, by all clips alike", file=sys.stderr)
        tuned = merge(tuned, {"model": {"annotated": False}})
    if not all(line.has_tube for line in lines["val"]):
        tuned = merge(tuned, {"trainer": {"limit_val_batches": 0}})
    epochs = options.epochs or epochs_for(len(source.read("train").annotations), options.batch_size)
    tuned = merge(tuned, {"trainer": {"max_epochs": epochs}})
    if not lines["test"]:
        print("no clip is for the test, so nothing is measured", file=sys.stderr)
        return (StudyRun(TUNED_FOLDER, options.seed, options.run / TUNED_FOLDER, tuned, ()),)
    folders = options.run / BASELINE_FOLDER, options.run / TUNED_FOLDER
    tests = RunTest("", folders[0], {}, None), RunTest("", folders[1], {}, folders[0] / RunFile.RESULTS)
    return (
        StudyRun(None, None, folders[0], frozen, tests[:1]),
        StudyRun(TUNED_FOLDER, options.seed, folders[1], tuned, tests[1:]),
    )


def _model_and_data(options: argparse.Namespace, model: ModelSource) -> Config:
    """The clips, shown as the model is used to."""
    viewing = model.description.viewing
    by_clock = viewing.at_most is not None
    data: dict[str, Any] = {
        "root": str(options.folder),
        "frame_rate": None if by_clock else viewing.frame_rate,
        "sampling": {"rate": viewing.frame_rate, "at_most": viewing.at_most} if by_clock else None,
        "num_frames": viewing.num_frames,
        "longest_clip": viewing.clip_seconds,
        "resizing": "short_side" if viewing.short_side else "height",
        "resolution": viewing.resolution,
        "antialias": viewing.antialias,
        "batch_size": options.batch_size,
        "num_workers": options.workers,
        "on_bad_video": options.on_bad_video,
    }
    if options.features is not None:
        data |= {"features": str(options.features), "variants": 2}
    weights = "random" if model.weights is None else str(model.weights)
    return {
        "seed_everything": options.seed,
        "model": {
            "grounder": with_places(model.description.grounder),
            "weights": weights,
            "inference": viewing.inference,
        },
        "data": {"class_path": "datamodules.OwnClips", "init_args": data},
    }


def epochs_for(sentences: int, batch_size: int) -> int:
    """So many that there are enough steps; an epoch leaves out what does not fill its last one."""
    return max(_LEAST_EPOCHS, ceil(_STEPS / max(sentences // batch_size, 1)))


def _refuse_changed(runs: Sequence[StudyRun]) -> None:
    """
    Raises:
        ValueError: what there is of a run was asked for otherwise.
    """
    for run in runs:
        if changes := [change for change in run.changes() if not change.startswith(_OF_A_MACHINE)]:
            raise ValueError(
                f"'{run.folder}' was made otherwise ({'; '.join(changes)}); choose another --run, or delete it"
            )


def _refuse_other_lines(runs: Sequence[StudyRun], annotations: Path, folder: Path) -> None:
    """Keeps results of other lines from being taken for those of the present ones.

    Raises:
        ValueError: the annotations have changed since the runs were made.
    """
    kept, now = folder / ANNOTATIONS_SUM, file_sum(annotations)
    left = (RunFile.RESULTS, RunFile.ADAPTER, RunFile.CHECKPOINTS)
    is_begun = any((run.folder / name).exists() for run in runs for name in left)
    if is_begun and kept.is_file() and kept.read_text(encoding="utf-8").split()[0] != now:
        raise ValueError(
            f"'{annotations}' has changed since '{folder}' was made of it; choose another --run, or delete it"
        )
    write_whole(kept, f"{now}  {annotations}\n")


def _finish(run: StudyRun, features: Path | None) -> int:
    """Brings a run to its end; the status of the command that failed, or 0."""
    stages = run.stages()
    if stages:
        run.write_config()
    if stages and features is not None:
        splits = () if run.tests else ("--split", "train", "val")
        if status := _run(["cache", "features", "--config", str(run.config_file), *splits]):
            return status
    for stage in stages:
        for path in stage.clears:
            path.unlink(missing_ok=True)
        if status := _run(stage.arguments):
            return status
    return 0


def _run(arguments: Sequence[str]) -> int:
    """Runs a command of the suite, which says itself what is wrong, and gives back its status.

    It is in a group of its own: Ctrl-C reaches us alone, who then end it and its loaders.
    """
    print(f"$ {shlex.join(['python', *PROGRAM[1:], *arguments])}", file=sys.stderr, flush=True)
    process = subprocess.Popen([*PROGRAM, *arguments], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
