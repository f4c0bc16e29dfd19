"""A study in parts: one shell command for each run, for a scheduler or a shell that runs many at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from stvg_nst.counting import counted
from stvg_nst.machine.folder_lock import is_held
from stvg_nst.study.launch import Launcher, Outcome
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.runs import StudyRun

Stages = tuple[Sequence[StudyRun], Sequence[StudyRun]]
"""Baselines, and what is compared with them."""


def name_of(run: StudyRun, folder: Path) -> str:
    """Of a run within its study: its folder below that of the runs."""
    return run.folder.relative_to(folder).as_posix()


def commands_for(stages: Stages, folder: Path, command: Sequence[str]) -> tuple[list[str], str]:
    """One shell command for each run that is missing and nobody works on, and what is to be said of the others.

    What is compared with a baseline comes when that is there.

    Args:
        command: of the study, without ``--emit``; it works in the present folder.
    """
    baselines, others = stages
    missing = {run.grounder for run in baselines}
    ready = [*baselines, *(run for run in others if run.grounder not in missing)]
    free = [run for run in ready if not is_held(run.folder)]
    place = shlex.quote(str(Path.cwd()))
    lines = [f"cd {place} && {shlex.join([*command, '--part', name_of(run, folder)])}" for run in free]
    notes = [counted(len(lines), "command")]
    if working := len(ready) - len(free):
        notes.append(f"{counted(working, 'run')} at work")
    if later := len(baselines) + len(others) - len(ready):
        notes.append(f"{later} more once their baselines are there: give the same command again")
    return lines, "; ".join(notes)


def run_part(name: str, stages: Stages, folder: Path, launcher: Launcher) -> Outcome:
    """Brings one run to its end.

    Raises:
        StudyError: the study has no such run, another command works on it, or its baseline is not there yet.
    """
    baselines, others = stages
    named = {name_of(run, folder): run for run in (*baselines, *others)}
    if name not in named:
        raise StudyError(f"the study has no run '{name}' in '{folder}'; --emit lists those that are missing")
    run = named[name]
    lacking = [baseline for baseline in baselines if baseline.grounder == run.grounder and not baseline.finished]
    if run.point is not None and lacking:
        raise StudyError(f"{run} is compared with {lacking[0]}, which is not there yet; run that part first")
    if is_held(run.folder):
        raise StudyError(f"another command works on {run} in '{run.folder}'; wait until it ends")
    if run.finished or run.diverged:
        return Outcome(run, 0.0, run.why_failed if run.diverged else None)
    (outcome,) = launcher.outcomes([run], on_start=lambda started: None)
    return outcome
