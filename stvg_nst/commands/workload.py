"""`workload`: the clips that studies on the published data sets train on and test, and what that takes of a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from datamodules.annotated_videos import AnnotatedVideos
from datamodules.quality import expand_conditions
from stvg_nst.arguments import CommandParser
from stvg_nst.commands.data_options import say
from stvg_nst.commands.full_size import BYTES_OF_A_RUN
from stvg_nst.configuration import Config, ConfigurationError, read_yaml
from stvg_nst.study import Study, StudyError, read_studies

_NOT_MEASURED = """\
GPU-hours are not known, for no throughput of a GPU has been measured. On the GPU give
  python benchmarks/model.py --only cost --device cuda --precision bf16 --frames 64 --size 420 588 --clips 4
and write '{file}', in YAML: device: its name; inference: clips / seconds of "all"; training: clips / seconds of ResNet,
VidSwin, text and "NST step" together."""


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
    console = Console()
    console.print(_table(works, measured))
    if measured is None:
        say(console, _NOT_MEASURED.format(file=options.throughput))
    return 0


def workload_of(study: Study) -> Workload:
    """Counts a study on a published data set by the numbers of its sentences as published.

    Raises:
        StudyError: it is on another data set, or its training has no number of steps.
    """
    data, model = study.baseline["data"], study.baseline["model"]
    tested = _test_samples(study, data) * (2 if model.get("inference") == "two_pass" else 1)
    runs = len(study.points) * len(study.seeds)
    return Workload(
        study,
        runs,
        trained=len(study.seeds) * sum(map(_training_clips, study.points.values())),
        tested=(runs + 1) * len(study.tests) * tested,
    )


def _test_samples(study: Study, data: Config) -> int:
    """Sentences of the split that is tested, each in all of its conditions."""
    options, kind = data.get("init_args", {}), resolve_name(data["class_path"])
    if not issubclass(kind, AnnotatedVideos):
        raise StudyError(f"{study.path}: the sizes of {kind.__name__} are not published; workload counts no other")
    shown = {"version": options["version"]} if "version" in options else {}
    source = kind(root=options["root"], **shown).source
    conditions = len(expand_conditions(options.get("evaluation_conditions", "mixed")))
    if options.get("evaluation_split", "test") == "test":
        return conditions * sum(source.official_counts["test"])
    share = options.get("held_out", kind.held_out) / (2 if options.get("validation_half") else 1)
    return round(conditions * share * sum(source.official_counts["train"]))


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
    rates = [found.get(name) for name in ("training", "inference")]
    if not isinstance(found.get("device"), str) or not all(type(r) in (int, float) and r > 0 for r in rates):
        raise ConfigurationError(
            f"{file}: expected a device's name, and training and inference in clips a second, got {found}"
        )
    return found


def _table(works: Sequence[Workload], throughput: Mapping[str, Any] | None) -> Table:
    hours = "GPU-hours" if throughput is None else f"hours of one {throughput['device']}"
    table = Table(title="The work of the studies, as they are written", title_justify="left", show_footer=True)
    columns = ("runs", "clips trained", "clips tested", "disk", hours)
    total = [sum(w.runs for w in works), sum(w.trained for w in works), sum(w.tested for w in works)]
    disk = decimal(int(sum(w.disk_bytes for w in works)))
    all_hours = "not measured" if throughput is None else f"{sum(w.gpu_hours(throughput) for w in works):,.1f}"
    table.add_column("study", "all", overflow="fold")
    for name, footer in zip(columns, (*(f"{number:,}" for number in total), disk, all_hours), strict=True):
        table.add_column(name, footer, justify="right")
    for work in works:
        own_hours = "not measured" if throughput is None else f"{work.gpu_hours(throughput):,.1f}"
        numbers = (f"{number:,}" for number in (work.runs, work.trained, work.tested))
        table.add_row(str(work.study.path), *numbers, decimal(int(work.disk_bytes)), own_hours)
    return table
