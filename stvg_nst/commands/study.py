"""`study`, `budget`, `choose` and `tables`: grids of runs, from what they would train to the paper's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stvg_nst.command_line.arguments import CommandParser

if TYPE_CHECKING:
    from stvg_nst.report.clips import ShownClip


def study(arguments: Sequence[str], program: str) -> int:
    from stvg_nst.report.study import report_study
    from stvg_nst.study.command import study_command

    return study_command(arguments, prog=program, report=report_study)


def budget(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="List the adapted layers, the trainable parameters and their share of each point of a study.",
    )
    parser.add_argument("study", type=Path, help="the study's .yaml")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="OVERLAY",
        help="over every point, such as another grounder's of experiments/model/; may be given more than once",
    )
    parser.add_argument("--only", nargs="+", metavar="POINT", default=["*"], help="these of the points; * matches any")
    options = parser.parse_args(arguments)

    from stvg_nst.budget import budget_text
    from stvg_nst.configuration import read_overlay
    from stvg_nst.study import read_studies

    study = read_studies(options.study)[0].of_points(options.only)
    print(budget_text(study.under(read_overlay(path) for path in options.config)))
    return 0


def choose(arguments: Sequence[str], program: str) -> int:
    from stvg_nst.report.choice import choose_command

    return choose_command(arguments, prog=program)


def tables(arguments: Sequence[str], program: str) -> int:
    from stvg_nst.report.tables import tables_command

    return tables_command(arguments, prog=program, show=_shown_clip)


def _shown_clip(config: Mapping[str, Any], root: str | None, item_id: str, quality: str) -> ShownClip:
    """A sample of the data that a run's configuration names, from the folder ``root`` if given."""
    from jsonargparse import ArgumentParser

    from datamodules import STVGDataModule
    from stvg_nst.report.clips import ShownClip
    from stvg_nst.types import Quality

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(STVGDataModule, "data")
    changed = {"features": None} | ({} if root is None else {"root": root})
    settings = {**config["data"], "init_args": {**config["data"]["init_args"], **changed}}
    data = parser.instantiate(parser.parse_object({"data": settings})).data
    info = data.sample(item_id, Quality[quality])
    degradation = None if info.degradation is None else str(info.degradation)
    return ShownClip(data.pixels(info), info.frame_ids, info.native_length, info.query, degradation)
