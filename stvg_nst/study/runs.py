"""The runs of a study: where each lives, how far it is, and the commands that bring it to its end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stvg_nst.study.definition import Study, folder_name
from stvg_nst.study.overlays import Config, StudyError, differences, merge, read_yaml

BASELINE_FOLDER = "zero-shot"
_HEADER = """\
# What this run was asked for, in one piece; the study compares it before it takes the run for its own.
# By hand: python -m stvg_nst fit --config THIS_FILE --run ITS_FOLDER --ckpt_path last
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of a run: the arguments after ``python -m stvg_nst``, and the file that stands when it is done."""

    arguments: tuple[str, ...]
    leaves: Path


@dataclass(frozen=True, slots=True)
class StudyRun:
    """A point under one seed, or the baseline.

    Args:
        point: ``None`` for the baseline.
        seed: ``None`` for the baseline, which trains nothing.
        folder: holds all that the run leaves.
        config: all that the run is asked for, its seed included.
    """

    point: str | None
    seed: int | None
    folder: Path
    config: Config

    def __str__(self) -> str:
        return "zero-shot" if self.point is None else f"{self.point}, seed {self.seed}"

    @property
    def config_file(self) -> Path:
        return self.folder / "point.yaml"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def failure(self) -> Path:
        """Why the last attempt failed, in one line; absent after any other."""
        return self.folder / "failure.txt"

    def changes(self) -> list[str]:
        """Where what stands in the folder differs from what is asked for; nothing for a folder without results.

        Raises:
            StudyError: the folder holds what no study made, or its ``point.yaml`` is damaged.
        """
        kept = (self.results, self.adapter, self.folder / "checkpoints")
        if not any(path.exists() for path in kept):
            return []  # it failed before it learnt anything: what it was asked for may be corrected
        if not self.config_file.exists():
            raise StudyError(f"'{self.folder}' holds a run that no study made; choose another folder with --runs")
        return differences(read_yaml(self.config_file), self.config)

    def write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.config_file.with_name(".point.yaml.partial")
        partial.write_text(_HEADER + yaml.safe_dump(dict(self.config), sort_keys=False), encoding="utf-8")
        os.replace(partial, self.config_file)

    def stages(self, baseline: Path, places: Sequence[str] = ()) -> tuple[Stage, ...]:
        """What is left to do: a fit, which goes on where it was interrupted, and a test; the baseline is only tested.

        Args:
            baseline: ``results.json`` of the baseline.
            places: options that say where the data lies; they are no part of what is compared.
        """
        common = ("--config", str(self.config_file), "--run", str(self.folder), *places)
        fit = Stage(("fit", *common, "--ckpt_path", "last"), self.adapter)
        trained = ("--model.adapter", str(self.adapter), "--model.baseline", str(baseline))
        test = Stage(("test", *common, *(() if self.point is None else trained)), self.results)
        stages = (test,) if self.point is None else (fit, test)
        return () if self.results.exists() else tuple(stage for stage in stages if not stage.leaves.exists())


def planned_runs(study: Study, folder: Path) -> tuple[StudyRun, tuple[StudyRun, ...]]:
    """The baseline, and every point under every seed: all points once before any twice, so that a mistake in one shows
    early and an unfinished study compares equals."""
    baseline = StudyRun(None, None, folder / BASELINE_FOLDER, study.baseline)
    runs = (
        StudyRun(point, seed, folder / f"{folder_name(point)}-seed{seed}", merge(config, {"seed_everything": seed}))
        for seed in study.seeds
        for point, config in study.points.items()
    )
    return baseline, tuple(runs)


def refuse_changed(runs: Iterable[StudyRun]) -> None:
    """Keeps runs of different configurations from being reported as one study.

    Raises:
        StudyError: the results of some runs were made by another configuration than the study's.
    """
    changed = [(run, changes) for run in runs if (changes := run.changes())]
    if changed:
        lines = [f"'{run.folder}': {'; '.join(changes)}" for run, changes in changed]
        raise StudyError(
            "what stands in these folders was made by another configuration than the study now has:\n  "
            + "\n  ".join(lines)
            + "\ndelete the folders to run these points again, or give the study another folder with --runs"
        )
