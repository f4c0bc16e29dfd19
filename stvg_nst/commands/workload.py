"""`workload`: the clips that studies on the published data sets train on and test, and what that takes of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from datamodules.annotated_videos import AnnotatedVideos
from datamodules.own_clips.data_module import OwnClips
from datamodules.quality import expand_conditions
from stvg_nst.command_line.arguments import CommandParser
from stvg_nst.commands.data_options import data_module_class, say
from stvg_nst.commands.full_size import BYTES_OF_A_RUN
from stvg_nst.configuration import Config, ConfigurationError, merge, nested, read_yaml
from stvg_nst.report.sheet import Cell, Section, Sheet, print_sheet, sheet_console
from stvg_nst.study import Study, StudyError, read_studies

_NOT_MEASURED = """\
GPU-hours are not known: '{file}' is not there, which holds what a GPU does in a second. On the GPU give
  python -m benchmarks.gpu --part tuning inference --frames 64 --throughput {file}"""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a study takes, as it is written and whatever of it is done.

    Args:
        runs: that train; the test of the baseline comes on top.
        trained: clips that these train on, forward and backward.
        tested: clips that are tested, each pass of a clip being one, over all conditions.
    """

    study: Study
    runs: int
    trained: int
    tested: int

    @property
    def disk_bytes(self) -> float:
        return self.runs * BYTES_OF_A_RUN

    def gpu_hours(self, throughput: Mapping[str, Any]) -> float:
        """By clips a second in ``training`` and in ``inference``."""
        return (self.trained / throughput["training"] + self.tested / throughput["inference"]) / 3600


def workload(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Say how many clips studies on the published data sets train on and test, the disk that their runs "
        "take, and, by a measured throughput, the hours of one GPU.",
    )
    parser.add_argument("study", type=Path, nargs="+", help="the studies' .yaml")
    parser.add_argument(
        "--throughput",
        type=Path,
        default=Path("throughput.yaml"),
        help="what was measured on the GPU, in clips of 64 frames a second: device, training, inference",
    )
    options = parser.parse_args(arguments)
    works = [workload_of(study) for path in options.study for study in read_studies(path)]
    measured = read_throughput(options.throughput) if options.throughput.is_file() else None
    console = sheet_console()
    print_sheet(Sheet("", (_section(works, measured),)), console)
    if measured is None:
        say(console, _NOT_MEASURED.format(file=options.throughput))
    return 0


def workload_of(study: Study) -> Workload:
    """Counts a study on a published data set by the numbers of its sentences as published.

    Raises:
        StudyError: it is on another data set, or its training has no number of steps.
    """
    tested = sum(_tested_clips(study, settings) for settings in study.tests.values())
    runs = len(study.points) * len(study.seeds)
    return Workload(
        study,
        runs,
        trained=len(study.seeds) * sum(map(_training_clips, study.points.values())),
        tested=(runs + 1) * tested,
    )


def _tested_clips(study: Study, settings: Config) -> int:
    """Sentences of the split that a test of the study measures on, each in all of its conditions and passes."""
    config = reduce(merge, (nested(*setting) for setting in settings.items()), study.baseline)
    data, passes = config["data"], 2 if config["model"].get("inference") == "two_pass" else 1
    options, kind = data.get("init_args", {}), data_module_class(data["class_path"])
    if not issubclass(kind, AnnotatedVideos) or issubclass(kind, OwnClips):
        raise StudyError(f"{study.path}: the sizes of {kind.__name__} are not published; workload counts no other")
    shown = {"version": options["version"]} if "version" in options else {}
    counts = kind(root=options.get("root", kind.root), **shown).source.official_counts
    conditions = passes * len(expand_conditions(options.get("evaluation_conditions", "mixed")))
    if options.get("evaluation_split", "test") == "test":
        return conditions * sum(counts["test"])
    part = 2 if options.get("validation_half") else 1
    if options.get("validation") == "official":
        return round(conditions * sum(counts["val"]) / part)
    return round(conditions * options.get("held_out", kind.held_out) * sum(counts["train"]) / part)


def _training_clips(config: Config) -> int:
    steps = config.get("trainer", {}).get("max_steps", -1)
    clips = config["data"]["init_args"].get("effective_batch")
    if steps < 1 or clips is None:
        raise StudyError("a run's work follows from trainer.max_steps and data.init_args.effective_batch; set both")
    return int(steps * clips)


def read_throughput(file: Path) -> Mapping[str, Any]:
    """Clips a second in training and inference, and the device that they were measured on.

    Raises:
        ConfigurationError: one is missing, or no positive number.
    """
    found = read_yaml(file)
    rates: list[Any] = [found.get(name) for name in ("training", "inference")]
    if not isinstance(found.get("device"), str) or not all(type(r) in (int, float) and r > 0 for r in rates):
        raise ConfigurationError(
            f"{file}: expected a device's name, and training and inference in clips a second, got {found}"
        )
    return found


def _section(works: Sequence[Workload], throughput: Mapping[str, Any] | None) -> Section:
    device = "" if throughput is None else f", and the hours of one {throughput['device']}"
    columns: dict[str, Sequence[float | None]] = {
        "runs": [work.runs for work in works],
        "trained": [work.trained for work in works],
        "tested": [work.tested for work in works],
        "GB": [work.disk_bytes / 1e9 for work in works],
        "GPU-hours": [work.gpu_hours(throughput) if throughput else None for work in works],
    }
    rows = [(str(work.study.path), *values) for work, *values in zip(works, *columns.values(), strict=True)]
    if len(works) > 1:
        rows.append(("all of them", *map(_sum, columns.values())))
    cells = tuple((Cell(name), *(Cell(_number(value)) for value in values)) for name, *values in rows)
    return Section(f"The work of studies as they are written{device}", ("study", *columns), cells, labels=1)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
