"""The runs of a study: where each lives, how far it is, and the commands that bring it to its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stvg_nst.configuration import Config, differences, dump_yaml, merge, read_yaml
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.results.run_folder import RunFile
from stvg_nst.study.definition import Study
from stvg_nst.study.fields import folder_name
from stvg_nst.study.overlays import StudyError
from stvg_nst.study.weights_sum import file_sum, is_same
from stvg_nst.training.settings import training_callbacks

BASELINE_FOLDER = "zero-shot"
_MEASURED_BY = {"trainer.precision": "32-true", "model.inference": "single_pass"}
"""Settings that a test must share with its baseline's, and what they are where no overlay has them."""
_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}  # Lightning's older names
_HEADER = """\
# What this run was asked for, in one piece; the study compares it before it takes the run for its own.
# By hand: python -m stvg_nst fit --config THIS_FILE --run ITS_FOLDER --ckpt_path last
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """One command of a run.

    Args:
        arguments: what follows ``python -m stvg_nst``.
        leaves: the file that it leaves when it is done.
        clears: files that an earlier attempt may have left, which it would refuse to overwrite.
    """

    arguments: tuple[str, ...]
    leaves: Path
    clears: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class RunTest:
    """A test of a run, one of several where the study has ``tests``.

    Args:
        name: empty where there is one.
        folder: holds what the test leaves.
        settings: what is tested otherwise than the run's configuration says, by dotted name.
        baseline: ``results.json`` of the baseline under the same test; ``None`` for the baseline's own.
    """

    name: str
    folder: Path
    settings: Config
    baseline: Path | None

    @property
    def results(self) -> Path:
        return self.folder / RunFile.RESULTS

    @property
    def settings_file(self) -> Path:
        return self.folder / RunFile.SETTINGS

    def measured_by(self, config: Config) -> dict[str, str]:
        """In which precision and how the test of a run of this configuration measures."""
        found = {}
        for name, usual in _MEASURED_BY.items():
            section, _, key = name.partition(".")
            value = self.settings.get(name, config.get(section, {}).get(key)) or usual
            found[name] = _PRECISIONS.get(str(value), str(value))
        return found

    def changes(self) -> list[str]:
        """Where the settings of existing results differ from what is asked for."""
        if not self.results.exists():
            return []
        before = read_yaml(self.settings_file) if self.settings_file.exists() else {}
        return [f"test '{self.name}': {change}" for change in differences(before, self.settings)]

    def stage(self, arguments: Sequence[str], adapter: Path | None) -> Stage:
        trained: tuple[str, ...] = ()
        if adapter is not None:
            trained = ("--model.adapter", str(adapter), "--model.baseline", str(self.baseline))
        settings = (f"--{name}={json.dumps(value)}" for name, value in self.settings.items())
        command = ("test", *arguments, "--run", str(self.folder), *settings, *trained)
        tubes = self.folder / RunFile.PREDICTIONS, self.folder / RunFile.GROUND_TRUTH
        return Stage(command, self.results, clears=tubes)


_RECIPE = ("model.optimizer", "model.warmup_steps", "trainer.max_epochs", "trainer.gradient_clip_val")


@dataclass(frozen=True, slots=True)
class StudyRun:
    """A point under one seed, or the baseline.

    Args:
        point: ``None`` for the baseline.
        seed: ``None`` for the baseline, which trains nothing.
        folder: holds all that the run leaves.
        config: all that the run is asked for, its seed included.
        tests: none where nothing is to be measured.
        grounder: its name, where the study has several.
        places: options that say where the data lies; they are no part of what is compared.
    """

    point: str | None
    seed: int | None
    folder: Path
    config: Config
    tests: tuple[RunTest, ...]
    grounder: str | None = None
    places: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = "zero-shot" if self.point is None else f"{self.point}, seed {self.seed}"
        return name if self.grounder is None else f"{self.grounder}: {name}"

    @property
    def finished(self) -> bool:
        return all(path.exists() for path in [test.results for test in self.tests] or [self.adapter])

    @property
    def weights(self) -> Path | None:
        """The pretrained grounder, whose file may get another content under the same name."""
        name = self.config.get("model", {}).get("weights", "random")
        return None if name == "random" else Path(name)

    @property
    def config_file(self) -> Path:
        return self.folder / RunFile.POINT

    @property
    def weights_file(self) -> Path:
        """Sum of the pretrained weights, as `sha256sum` writes and checks it; empty for random ones."""
        return self.folder / RunFile.WEIGHTS_SUM

    @property
    def adapter(self) -> Path:
        return self.folder / RunFile.ADAPTER

    @property
    def log(self) -> Path:
        return self.folder / RunFile.LOG

    @property
    def failure(self) -> Path:
        """Why the last attempt failed, in one line; absent after any other."""
        return self.folder / RunFile.FAILURE

    @property
    def divergence(self) -> Path:
        """How the training diverged, in one line; absent where it has not."""
        return self.folder / RunFile.DIVERGENCE

    @property
    def diverged(self) -> bool:
        """Whether the training diverged: a finding about its point, which is not tried again until it passes."""
        return self.divergence.exists() and not self.finished

    @property
    def failed(self) -> bool:
        """Whether it diverged, or the last attempt failed, and nothing has finished it since, by hand for instance."""
        return self.diverged or (self.failure.exists() and not self.finished)

    @property
    def why_failed(self) -> str:
        """Why the last attempt failed, and where to read more; only of a run that did."""
        record = self.divergence if self.diverged else self.failure
        return f"{record.read_text(encoding='utf-8').strip()} ({self.log})"

    def changes(self) -> list[str]:
        """Where the results in the folder differ from what is asked for; empty for a folder without results.

        Raises:
            ConfigurationError: the folder holds what no study made, or its ``point.yaml`` is damaged.
        """
        kept = (
            *(test.results for test in self.tests),
            self.adapter,
            self.divergence,
            self.folder / RunFile.CHECKPOINTS,
            *self.folder.glob(f"*/{RunFile.RESULTS}"),  # of tests that the study had before
        )
        if not any(path.exists() for path in kept):
            return []  # it failed before it learnt anything: what it was asked for may be corrected
        if not self.config_file.exists() or not self.weights_file.exists():
            raise StudyError(f"'{self.folder}' holds a run that no study made; choose another folder with --runs")
        before = _without_watchers(_renamed(read_yaml(self.config_file)))
        changes = differences(before, _without_watchers(self.config))
        if self.point is None:  # it is only tested, and reads nothing of how the points are trained
            changes = [change for change in changes if not change.startswith(_RECIPE)]
        changes += [change for test in self.tests for change in test.changes()]
        weights = self.weights
        if not changes and weights is not None and weights.is_file():  # a report may be made where they are not
            kept_sum = self.weights_file.read_text(encoding="utf-8").split()[0]
            if not is_same(weights, kept_sum):
                now = file_sum(weights)
                changes.append(f"content of model.weights '{weights}': sha256 {kept_sum[:12]} before, {now[:12]} now")
        return changes

    def write_config(self) -> None:
        """Writes down what the run is asked for: its configuration, and the sum of the weights that it names.

        Raises:
            StudyError: the weights are not there.
        """
        if self.weights is not None and not self.weights.is_file():
            raise StudyError(f"{self}: model.weights '{self.weights}' is no file; check the overlays")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.weights_file, "" if self.weights is None else f"{file_sum(self.weights)}  {self.weights}\n")
        write_whole(self.config_file, _HEADER + dump_yaml(self.config))
        for test in self.tests:
            if test.name and not test.results.exists():
                test.folder.mkdir(exist_ok=True)
                write_whole(test.settings_file, dump_yaml(test.settings, sort_keys=True))

    def stages(self) -> tuple[Stage, ...]:
        """What is left to do: a fit, which goes on where it was interrupted, and tests; the baseline is only tested."""
        if self.finished:
            return ()
        common = ("--config", str(self.config_file), *self.places)
        adapter = None if self.point is None else self.adapter
        stages = [test.stage(common, adapter) for test in self.tests]
        if adapter is not None:
            stages = [Stage(("fit", *common, "--run", str(self.folder), "--ckpt_path", "last"), adapter), *stages]
        return tuple(stage for stage in stages if not stage.leaves.exists())


def _renamed(config: Config) -> Config:
    """A kept configuration by its class path of today: an older run names the gated adapter by its two options."""
    tuner = config.get("model", {}).get("tuner", {})
    options = tuner.get("init_args", {})
    is_null_space = tuner.get("class_path") == "stvg_nst.tuning.NullSpaceTuning"
    if not is_null_space or options.get("null_branch") is not False or options.get("basis") != "learned":
        return config
    kept = {name: value for name, value in options.items() if name not in ("null_branch", "basis")}
    gated = {"class_path": "stvg_nst.tuning.GatedAdapter", "init_args": kept}
    return {**config, "model": {**config["model"], "tuner": gated}}


def planned_runs(study: Study, folder: Path, places: tuple[str, ...] = ()) -> tuple[StudyRun, tuple[StudyRun, ...]]:
    """The baseline, and every point under every seed: all points once before any twice, so that a mistake in one shows
    early and an unfinished study compares equals.

    Args:
        folder: of this study; see :meth:`Study.folder_in`.
        places: options of every run that say where the data lies.
    """

    def run(point: str | None, seed: int | None, name: str, config: Config) -> StudyRun:
        return StudyRun(point, seed, folder / name, config, tests(name), study.grounder, places)

    def tests(name: str) -> tuple[RunTest, ...]:
        parts = {test: Path(folder_name(test)) if test else Path() for test in study.tests}
        before = None if name == BASELINE_FOLDER else folder / BASELINE_FOLDER
        return tuple(
            RunTest(test, folder / name / part, study.tests[test], before and before / part / RunFile.RESULTS)
            for test, part in parts.items()
        )

    runs = (
        run(point, seed, f"{folder_name(point)}-seed{seed}", merge(config, {"seed_everything": seed}))
        for seed in study.seeds
        for point, config in study.points.items()
    )
    return run(None, None, BASELINE_FOLDER, study.baseline), tuple(runs)


def _without_watchers(config: Config) -> Config:
    """The configuration without callbacks that only watch: what a run shows of itself is no part of its result."""
    trainer = config.get("trainer") or {}
    if not trainer.get("callbacks"):
        return config
    return {**config, "trainer": {**trainer, "callbacks": training_callbacks(trainer["callbacks"])}}


def refuse_changed(runs: Iterable[StudyRun]) -> None:
    """Keeps runs of different configurations from being reported as one study.

    Raises:
        StudyError: the results of some runs were made by another configuration than the study's.
    """
    changed = [(run, changes) for run in runs if (changes := run.changes())]
    if changed:
        lines = [f"'{run.folder}': {'; '.join(changes)}" for run, changes in changed]
        raise StudyError(
            "the results in these folders were made by another configuration than the study now has:\n  "
            + "\n  ".join(lines)
            + "\ndelete the folders to run these points again, or give the study another folder with --runs"
        )


def refuse_other_precisions(baseline: StudyRun, runs: Iterable[StudyRun]) -> None:
    """Keeps a fit from ending in a test that its baseline does not compare with.

    Raises:
        StudyError: a run would be tested in another precision than the baseline, or shown its clips otherwise.
    """
    for run in runs:
        for own, theirs in zip(run.tests, baseline.tests, strict=True):
            before, now = theirs.measured_by(baseline.config), own.measured_by(run.config)
            for name in before:
                if now[name] != before[name]:
                    raise StudyError(
                        f"{run} would be tested with {name} {now[name]}, but the baseline with {before[name]}: the two "
                        f"do not compare; set {name} for the whole study, or for each of its 'tests'"
                    )
