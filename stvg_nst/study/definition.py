"""What a study file says.

::

    title: "Table III: which part restores"
    seeds: [0, 1, 2]
    minutes_per_run: 3.5            # of a fit and its test on 2 CPU cores
    overlays: [experiments/base.yaml, ...]        # what all runs share, the baseline included
    baseline: [experiments/tuner/zero_shot.yaml]  # over these: what all points are compared with
    tuner: [experiments/tuner/nst.yaml]           # over these: where every point starts
    set: {trainer.max_epochs: 4}                  # over these, in all runs, the baseline included
    points:                                       # name: what is particular about it
      as published: {}
      rank 16: {model.tuner.init_args.rank: 16}
      LoRA: {overlays: [experiments/tuner/lora.yaml, experiments/scope/both.yaml]}  # instead of `tuner`
    quick:                                        # what --quick changes
      seeds: [0]
      minutes_per_run: 1
      set: {trainer.max_epochs: 1}

Paths of overlays are relative to the working directory, as they are after ``--config``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from stvg_nst.study.overlays import Config, StudyError, merge, override, read_yaml

_KEYS = ("title", "seeds", "minutes_per_run", "overlays", "baseline", "tuner", "set", "points", "quick")
_QUICK_KEYS = ("seeds", "minutes_per_run", "set")
_KINDS: Mapping[Any, str] = {str: "text", list: "a list", dict: "a mapping", (int, float): "a number"}


@dataclass(frozen=True, slots=True)
class Study:
    """A grid of runs, and a baseline to compare them with.

    Args:
        path: the file that it was read from.
        title: of its tables and figure; begins with QUICK where the study is cut short.
        seeds: of each point's runs.
        minutes_per_run: expected duration of a fit and its test on 2 CPU cores.
        baseline: configuration of the run without training that all points are compared with.
        points: name to configuration, but for the seed; two are never equal.
        quick: the study is cut short, so that its numbers stand for nothing but that it runs.
    """

    path: Path
    title: str
    seeds: tuple[int, ...]
    minutes_per_run: float
    baseline: Config
    points: Mapping[str, Config]
    quick: bool = False


def folder_name(point: str) -> str:
    """A point's name as part of a path.

    >>> folder_name("no QAU (eq. 3)")
    'no-QAU-eq.-3'
    """
    return re.sub(r"[^\w.@+-]+", "-", point).strip("-")


def read_study(path: Path, *, quick: bool = False) -> Study:
    """Reads and checks a study file, and merges the overlays of its points.

    Args:
        quick: apply the file's section ``quick``.

    Raises:
        StudyError: a key is misspelt, missing or of a wrong type, an overlay cannot be read, an override leads nowhere,
            or two points are the same. The message begins with the file.
    """
    content = read_yaml(path)
    try:
        return _study(path, content, quick=quick)
    except StudyError as error:
        # An unreadable overlay is named already, but not who asked for it.
        raise StudyError(f"{path}: {error}") from error


def _study(path: Path, content: Mapping[str, Any], *, quick: bool) -> Study:
    _refuse_unknown(content, _KEYS, "the study")
    title = _typed(content, "title", str)
    seeds = _seeds(content)
    minutes = _minutes(content)
    shared_overlays = _overlays(content, "overlays")
    settings = dict(_typed(content, "set", dict, default={}))
    changes = _typed(content, "quick", dict, default={})
    _refuse_unknown(changes, _QUICK_KEYS, "quick")
    if quick:
        if not changes:
            raise StudyError("has no section 'quick'; write one, or leave --quick out")
        seeds = _seeds(changes) if "seeds" in changes else seeds
        minutes = _minutes(changes) if "minutes_per_run" in changes else minutes
        shortened = _typed(changes, "set", dict, default={})
        settings |= shortened
        title = f"QUICK: {_quick_words(seeds, shortened)}. {title}"
    shared = _merged({}, shared_overlays)
    baseline = _configured(_merged(shared, _overlays(content, "baseline")), settings, "the baseline")
    return Study(path, title, seeds, minutes, baseline, _points(content, shared, settings), quick)


def _quick_words(seeds: Sequence[int], settings: Mapping[str, Any]) -> str:
    count = f"{len(seeds)} seed" + ("s" if len(seeds) > 1 else "")
    return ", ".join((count, *(f"{name}={value}" for name, value in settings.items())))


def _points(content: Mapping[str, Any], shared: Config, settings: dict[str, Any]) -> dict[str, Config]:
    tuner = _overlays(content, "tuner", default=())
    points: dict[str, Config] = {}
    for name, particular in _typed(content, "points", dict).items():
        if not isinstance(name, str) or not folder_name(name):
            raise StudyError(f"a point's name must be text with letters or digits, got {name!r}; put it in quotes")
        place = f"point '{name}'"
        if not isinstance(particular, dict):
            raise StudyError(f"{place} must be a mapping of dotted names to values, {{}} for none, got {particular!r}")
        overlays = _overlays(particular, "overlays", default=tuner)
        if not overlays:
            raise StudyError(f"{place} names no tuner; give it 'overlays', or the study 'tuner'")
        own = {key: value for key, value in particular.items() if key != "overlays"}
        points[name] = _configured(_merged(shared, overlays), settings | own, place)
    if not points:
        raise StudyError("'points' is empty; name at least one")
    for one, other in combinations(points, 2):
        if folder_name(one).lower() == folder_name(other).lower():
            raise StudyError(f"points '{one}' and '{other}' would share a folder; rename one")
        if points[one] == points[other]:
            raise StudyError(f"points '{one}' and '{other}' are the same run; change one, or drop it")
    return points


def _configured(config: Config, settings: Mapping[str, Any], place: str) -> Config:
    for name, value in settings.items():
        try:
            if name == "seed_everything":
                raise StudyError("the seeds of a study are its 'seeds'")
            if "." not in str(name):
                raise StudyError(f"'{name}' is no dotted name such as model.tuner.init_args.rank")
            config = override(config, name, value)
        except StudyError as error:
            raise StudyError(f"{place}: {error}") from error
    return config


def _merged(config: Config, overlays: Iterable[Path]) -> Config:
    for path in overlays:
        config = merge(config, read_yaml(path))
    return config


def _overlays(content: Mapping[str, Any], name: str, default: Sequence[Path] | None = None) -> tuple[Path, ...]:
    paths = _typed(content, name, list, default=default)
    if not all(isinstance(path, str | Path) for path in paths):
        raise StudyError(f"'{name}' must be a list of overlays' paths, got {paths!r}")
    return tuple(Path(path) for path in paths)


def _seeds(content: Mapping[str, Any]) -> tuple[int, ...]:
    seeds = _typed(content, "seeds", list)
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise StudyError(f"'seeds' must be a list of different whole numbers from 0, such as [0, 1, 2], got {seeds!r}")
    return tuple(seeds)


def _minutes(content: Mapping[str, Any]) -> float:
    minutes = _typed(content, "minutes_per_run", (int, float))
    if isinstance(minutes, bool) or minutes <= 0:
        raise StudyError(f"'minutes_per_run' must be positive, got {minutes!r}")
    return float(minutes)


def _typed(content: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    value = content.get(name, default)
    if value is None:
        raise StudyError(f"'{name}' is missing")
    if name in content and not isinstance(value, kind):
        raise StudyError(f"'{name}' must be {_KINDS[kind]}, got {value!r}")
    return value


def _refuse_unknown(content: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for name in content:
        if name not in known:
            guess = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{guess[0]}'?" if guess else f"it knows {', '.join(known)}"
            raise StudyError(f"{place} has an unknown key '{name}'; {hint}")
