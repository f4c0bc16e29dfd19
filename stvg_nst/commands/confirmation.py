"""Whether a run may read the split ``confirm``: only what a committed study lists may, trained and tested as listed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.ministvg.confirmation import UnconfirmedError, require_committed
from stvg_nst.configuration import Config, differences, merge, nested, read_yaml
from stvg_nst.results.run_folder import RunFile
from stvg_nst.study import StudyRun, planned_runs, read_studies
from stvg_nst.study.definition import study_files
from stvg_nst.training.settings import PLACES, settings_with_effect

Listed = tuple[StudyRun, Config]
"""A run of the study, and all settings of its fit, or of one of its tests."""


def require_listed(stage: str, config: Namespace, parser: LightningArgumentParser, checkpoint: Path | None) -> None:
    """Refuses a fit or a test on the split ``confirm`` that the study which it names does not list.

    A test must be listed, and the adapter that it loads must come from the fit that is listed with it.

    Args:
        stage: ``fit``, ``test``, or another that does not read the split.
        config: of the command, parsed by ``parser``.
        checkpoint: what the command would load besides an adapter.

    Raises:
        UnconfirmedError: no study is named, it is not committed as it is, or it does not list the run.
        ConfigurationError: what is named is no study.
    """
    options = config.data.init_args
    if stage not in ("fit", "test") or options.get("evaluation_split") != "confirm":
        return
    require_committed(options.get("confirmation"))
    study = Path(options.confirmation)
    require_committed(*study_files(study))
    found = _plain(config)
    runs = list(_listed(study, found, parser))
    if stage == "fit":
        _find(runs, found, study, "this fit")
        return
    run = _find(_tests(runs), found, study, "this test")
    adapter = config.model.adapter
    if checkpoint is not None or (adapter is None) != (run.point is None):
        raise UnconfirmedError(
            f"a test of '{run}' on 'confirm' loads {'no adapter' if run.point is None else 'the adapter of its fit'} "
            f"and no checkpoint, got --model.adapter {adapter} and the checkpoint {checkpoint}"
        )
    if adapter is not None:
        fit = Path(adapter).parent / RunFile.CONFIG
        if not fit.is_file():
            raise UnconfirmedError(f"nothing says how '{adapter}' was trained, for there is no '{fit}'; fit it again")
        _find([own for own in runs if own[0] is run], read_yaml(fit), study, f"the fit of '{adapter}' as '{run}'")


def _listed(study: Path, found: Config, parser: LightningArgumentParser) -> Iterator[Listed]:
    """The runs that have the tuner and the seed of a configuration, with all defaults."""
    for part in read_studies(study):
        baseline, runs = planned_runs(part, Path())
        for run in (baseline, *runs):
            config = {"seed_everything": 0, **run.config, "run": found["run"]}
            if _kind(config) == _kind(found):
                yield run, _plain(parser.parse_object(config))


def _kind(config: Config) -> tuple[int, str]:
    return config["seed_everything"], config["model"]["tuner"]["class_path"].rpartition(".")[2]


def _tests(runs: Iterable[Listed]) -> Iterator[Listed]:
    for run, config in runs:
        for test in run.tests:
            yield run, reduce(merge, (nested(*setting) for setting in test.settings.items()), dict(config))


def _find(listed: Iterable[Listed], found: Config, study: Path, what: str) -> StudyRun:
    """The listed run that has the same settings.

    Raises:
        UnconfirmedError: there is none.
    """
    tried = [(run, differences(_decisive(config), _decisive(found))) for run, config in listed]
    nearest, changes = min(tried, key=lambda pair: len(pair[1]), default=(None, []))
    if nearest is not None and not changes:
        return nearest
    seed, tuner = _kind(found)
    why = (
        f"it has no run of {tuner} under seed {seed}"
        if nearest is None
        else f"the nearest is '{nearest}', where (there before, here now) {'; '.join(changes)}"
    )
    raise UnconfirmedError(
        f"the split 'confirm' is read by what '{study}' lists, and by nothing else, but it does not list {what}: {why}"
    )


def _decisive(config: Config) -> dict[str, Any]:
    """What of a configuration decides what is trained, how it answers, and what it is asked."""
    settings = settings_with_effect(config)
    for name in (*PLACES, "seed"):  # the seed is the run's, and a file of settings holds it once
        settings["data"]["init_args"].pop(name, None)
    # The half of the validation split sets the threshold of a gate.
    names = ("evaluation_split", "evaluation_conditions", "validation_half")
    asked = {name: config["data"]["init_args"].get(name) for name in names}
    return {**settings, **asked, "inference": config["model"].get("inference")}


def _plain(value: Any) -> Any:
    """A parsed value as a file of settings holds it."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
