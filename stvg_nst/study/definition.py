"""What a study file says.

::

    title: "Table III: which part restores"
    seeds: [0, 1, 2]
    minutes_per_run: 3.5            # of a fit and its tests on 2 CPU cores
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
      points: ["LoRA"]                            # of points, levels, tests, grounders: those that match a pattern
      instead: {experiments/model/cgstvg.yaml: experiments/model/mini.yaml}  # overlays in the place of others

and, where it is wanted,

::

    extends: experiments/compare/methods.yaml     # a file of the same keys, under this one's; it may extend another
    only: ["decoder / *"]                         # of all these points: those that match a pattern
    grounders:                                    # the whole study on each, in a folder of its name
      mini: {overlays: [experiments/model/mini_weights.yaml]}
    tests:                                        # each run is tested under each, in a folder of its name
      draw 0: {}
      draw 1: {data.init_args.benchmark_seed: 1}
    levels:                                       # every point at each of these, as `rank 16, 25 clips`
      25 clips: {data.init_args.training_clips: 25}
    ordered_levels: false                         # they are kinds and no sizes: the figure joins none of their marks
    chosen: [experiments/compare/learning_rates.yaml]  # settings of points by name, which searches wrote
    chosen_as: NST                                # every point takes what they chose for this one
    primary:                                      # what the study was made to compare, apart from all else
      method: decoder / NST
      against: [decoder / LoRA, decoder / Full FT]
    published: {...}                              # numbers that the baseline must reproduce: published.py

A study with `published` may do without `points` and `seeds`: then it is a test of its baseline.

Paths of overlays are relative to the working directory, as they are after ``--config``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any

from stvg_nst.configuration import (
    Config,
    ConfigurationError,
    files_of_overlays,
    merge,
    read_overlay,
    read_yaml,
)
from stvg_nst.study.cut_short import FACTORS, QUICK_KEYS, cut_short, files_in, seeds_of
from stvg_nst.study.fields import (
    folder_name,
    matching,
    refuse_unknown,
    take,
    take_factor,
    take_minutes,
    take_named,
    take_overlays,
)
from stvg_nst.study.overlays import StudyError, override
from stvg_nst.study.published import Published

_GRID = ("overlays", "baseline", "tuner", "set", *FACTORS, "chosen", "chosen_as")
_SHARED = ("title", "seeds", "minutes_per_run", *_GRID, "ordered_levels", "primary", "published", "quick")
_KEYS = (*_SHARED, "extends", "only")


@dataclass(frozen=True, slots=True)
class Primary:
    """What a study was made to compare: one method and its rivals, by the names of their points."""

    method: str
    against: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """A grid of runs, and a baseline to compare them with.

    Args:
        path: the file that it was read from.
        title: of its tables and figure; begins with QUICK where the study is cut short.
        seeds: of each point's runs.
        minutes_per_run: expected duration of a fit and its tests on 2 CPU cores.
        baseline: configuration of the run without training that all points are compared with.
        points: name to configuration, but for the seed; two are never equal.
        levels: name to settings, and ``overlays`` of some; empty where the study has none, as is the next.
        cells: of each point its name without the level, and the level.
        ordered_levels: the levels follow one another, as sizes do and kinds do not.
        tests: name to settings; the one test of most studies is nameless.
        grounder: which of the file's grounders this is the study of; ``None`` where it names none.
        unchosen: points that no file of chosen settings says anything of.
        quick: the study is cut short: its numbers say no more than that it runs.
        primary: what it was made to compare; ``None`` where it does not say.
        published: what its baseline must reproduce; ``None`` where it does not say.
    """

    path: Path
    title: str
    seeds: tuple[int, ...]
    minutes_per_run: float
    baseline: Config
    points: Mapping[str, Config]
    levels: Mapping[str, Config]
    cells: Mapping[str, tuple[str, str]]
    tests: Mapping[str, Config]
    ordered_levels: bool = True
    grounder: str | None = None
    unchosen: tuple[str, ...] = ()
    quick: bool = False
    primary: Primary | None = None
    published: Published | None = None

    def row(self, point: str) -> str:
        """The name of a point without its level."""
        return self.cells[point][0] if point in self.cells else point

    @property
    def rows(self) -> tuple[str, ...]:
        """The points without their levels, in order."""
        return tuple(dict.fromkeys(map(self.row, self.points)))

    def of_points(self, patterns: Sequence[str]) -> Study:
        """The study of those of its points whose names, or names without their levels, match a pattern.

        Raises:
            StudyError: a pattern matches none.
        """

        def matches(point: str, pattern: str) -> bool:
            return fnmatchcase(point, pattern) or fnmatchcase(self.row(point), pattern)

        unknown = [pattern for pattern in patterns if not any(matches(point, pattern) for point in self.points)]
        self.refuse_unknown("point", unknown, self.rows)
        found = {name: config for name, config in self.points.items() if any(matches(name, p) for p in patterns)}
        return replace(self, points=found)

    def refuse_unknown(self, kind: str, unknown: Sequence[object], known: Sequence[object]) -> None:
        """Refuse names that the study does not have.

        Args:
            kind: of what was asked for, such as a point or a seed.
            unknown: that the study does not have.
            known: that it has.

        Raises:
            StudyError: something is unknown.
        """
        if unknown:
            asked, known_names = (", ".join(map(repr, names)) for names in (unknown, known))
            raise StudyError(f"{self.path}: the study has no {kind} {asked}; it has {known_names}")

    def under(self, overlays: Iterable[Config]) -> Study:
        """The study with overlays over its baseline and each of its points, such as those of another grounder."""
        above: Config = reduce(merge, overlays, {})
        points = {name: merge(config, above) for name, config in self.points.items()}
        return replace(self, baseline=merge(self.baseline, above), points=points)

    @property
    def heading(self) -> str:
        """The title of what is said of this grounder alone."""
        return self.title if self.grounder is None else f"{self.title}, {self.grounder}"

    @property
    def unchosen_words(self) -> str | None:
        """What a reader must know where a search has not chosen for all points; ``None`` where it has."""
        if not self.unchosen:
            return None
        names = "any point" if len(self.unchosen) == len(self.rows) else "; ".join(self.unchosen)
        return f"no search has chosen for {names}: the settings of the overlays hold"

    def folder_in(self, runs: Path) -> Path:
        """Where its runs lie below the folder of all."""
        return runs if self.grounder is None else runs / folder_name(self.grounder)


def scope_and_name(point: str) -> tuple[str, str]:
    """The scope and the method of a point's name; the scope is empty where the name has none.

    >>> scope_and_name("decoder / NST"), scope_and_name("rank 4")
    (('decoder', 'NST'), ('', 'rank 4'))
    """
    scope, _, name = point.rpartition(" / ")
    return scope, name


def quick_folder(runs: Path) -> Path:
    """Where a study that is cut short keeps its runs, so that none of them is taken for a whole one."""
    named = runs if runs.name not in ("", "..") else Path(os.path.abspath(runs))  # such as the working directory
    return named.with_name(f"{named.name}-quick")


def read_studies(path: Path, *, quick: bool = False) -> tuple[Study, ...]:
    """Reads and checks a study file, and merges the overlays of its points.

    Args:
        quick: apply the file's section ``quick``.

    Returns:
        One study for each of the file's grounders; one where it names none.

    Raises:
        StudyError: the file or an overlay cannot be read, a key is misspelt, missing or of a wrong type, an override
            leads nowhere, or two points, tests or grounders are the same. The message begins with the file.
    """
    try:
        content = read_yaml(path)
    except ConfigurationError as error:
        raise StudyError(str(error)) from error
    try:
        refuse_unknown(content, _KEYS, "the study")
        content = _extended(content)
        refuse_unknown(take(content, "quick", dict, default={}), QUICK_KEYS, "quick")
        content = cut_short(content) if quick else content
        grounders = take_factor(content, "grounders").items()
        studies = tuple(_study(path, content, name, particular, quick=quick) for name, particular in grounders)
        _refuse_alike("grounders", {str(study.grounder): study.baseline for study in studies})
        return studies
    except ConfigurationError as error:
        # An unreadable overlay is named already, but not who asked for it.
        raise StudyError(f"{path}: {error}") from error


def study_files(path: Path) -> tuple[Path, ...]:
    """The file of a study, and those that it is made of: what it extends, its overlays with all that they name, and its
    chosen settings.

    Raises:
        ConfigurationError: the file is no study, or one that it is made of cannot be read.
    """
    content = read_yaml(path)
    refuse_unknown(content, _KEYS, f"'{path}'")
    whole = _extended(content)
    overlays = files_of_overlays([*map(Path, files_in(whole))])
    return tuple(dict.fromkeys((path, *map(Path, _files_below(content)), *overlays)))


def _extended(content: dict[str, Any]) -> dict[str, Any]:
    """The content over that of the file which it extends, if any: of mappings entry by entry, all else replaced.

    Of the points of both those are kept that ``only`` asks for.
    """
    layers = (*reversed(_files_below(content).values()), content)
    own: list[Config] = [{k: v for k, v in layer.items() if k not in ("extends", "only")} for layer in layers]
    nothing: dict[str, Any] = {}
    whole = reduce(merge, own, nothing)
    if "only" in content:
        whole["points"] = matching(take_named(whole, "points"), take(content, "only", list), "points")
    return whole


def _files_below(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The file that a study extends, the one that this extends, and so on, with what they say."""
    found: dict[str, dict[str, Any]] = {}
    while "extends" in content:
        name = take(content, "extends", str)
        if name in found:
            raise StudyError(f"'{name}' extends itself")
        content = found[name] = read_yaml(Path(name))
        refuse_unknown(content, (*_SHARED, "extends"), f"'{name}'")
    return found


def _study(
    path: Path, content: Mapping[str, Any], grounder: str | None, particular: Mapping[str, Any], *, quick: bool
) -> Study:
    settings = take(content, "set", dict, default={}) | _settings(particular)
    shared = _merged({}, (*take_overlays(content, "overlays"), *take_overlays(particular, "overlays", default=())))
    baseline = _configured(_merged(shared, take_overlays(content, "baseline")), settings, "the baseline")
    chosen = _chosen(take_overlays(content, "chosen")) if "chosen" in content else None
    tests = take_named(content, "tests") if "tests" in content else {"": {}}
    _refuse_alike("tests", {name: _configured(baseline, own, f"test '{name}'") for name, own in tests.items()})
    points, cells = _points(content, shared, settings, _for_all(content, chosen or {}))
    return Study(
        path=path,
        title=take(content, "title", str),
        seeds=seeds_of(content),
        minutes_per_run=take_minutes(content),
        baseline=baseline,
        points=points,
        levels=content.get("levels", {}),
        cells=cells,
        tests=tests,
        ordered_levels=take(content, "ordered_levels", bool, default=True),
        grounder=grounder,
        unchosen=() if chosen is None else _unchosen(content, chosen),
        quick=quick,
        primary=_primary(take(content, "primary", dict), points, quick=quick) if "primary" in content else None,
        published=Published.parse(take(content, "published", dict)) if "published" in content else None,
    )


def _chosen(files: Sequence[Path]) -> Config:
    """What searches chose for each point: one its rate, another its weight of a loss, no two the same setting."""
    chosen: dict[str, Config] = {}
    for file in files:
        for point, settings in read_yaml(file).items():
            if not isinstance(settings, dict):
                raise StudyError(f"'{file}' must give '{point}' a mapping of dotted names to values, got {settings!r}")
            before = chosen.get(point, {})
            if twice := sorted(before.keys() & settings.keys()):
                raise StudyError(f"'{file}' chooses {twice[0]} for '{point}', as a file before it does; drop one")
            chosen[point] = {**before, **settings}
    return chosen


def _for_all(content: Mapping[str, Any], chosen: Config) -> Config:
    """What searches chose for each point: for its own name, or for the one that ``chosen_as`` names for all."""
    if "chosen_as" not in content:
        return chosen
    name = take(content, "chosen_as", str)
    return dict.fromkeys(take_named(content, "points"), chosen[name]) if name in chosen else {}


def _unchosen(content: Mapping[str, Any], chosen: Config) -> tuple[str, ...]:
    """The points that it says nothing of; a study without points has none."""
    found = _for_all(content, chosen)
    return tuple(name for name in content.get("points", ()) if name not in found)


def _primary(content: Mapping[str, Any], points: Mapping[str, Config], *, quick: bool) -> Primary | None:
    """The comparisons; of a study that is cut short those whose points are left."""
    refuse_unknown(content, ("method", "against"), "'primary'")
    method, against = take(content, "method", str), tuple(take(content, "against", list))
    if unnamed := [name for name in against if not isinstance(name, str)]:
        raise StudyError(f"'against' must be a list of points' names, got {unnamed[0]!r}")
    lacking = [name for name in (method, *against) if name not in points]
    if quick and lacking:
        against = tuple(name for name in against if name in points)
        return Primary(method, against) if method in points and against else None
    if lacking or not against:
        raise StudyError(
            f"'primary' compares a point with others of the study, got {', '.join(map(repr, lacking)) or 'no other'}; "
            f"it has {', '.join(points)}"
        )
    return Primary(method, against)


def _points(
    content: Mapping[str, Any], shared: Config, settings: Config, chosen: Config
) -> tuple[dict[str, Config], dict[str, tuple[str, str]]]:
    """Every point, at each of the levels where there are some; and what each is made of."""
    levels = take_factor(content, "levels")
    points: dict[str, Config] = {}
    cells: dict[str, tuple[str, str]] = {}
    if "points" not in content and "published" in content:
        return points, cells
    for row, particular in take_named(content, "points").items():
        for level, above in levels.items():
            name = row if level is None else f"{row}, {level}"
            points[name] = _point(content, shared, settings | chosen.get(row, {}), row, (particular, above))
            if level is not None:
                cells[name] = row, level
    _refuse_alike("points", points)
    return points, cells


def _refuse_alike(kind: str, configs: Mapping[str, Config]) -> None:
    """Keeps runs from being counted twice: under two names, or in one folder."""
    for one, other in combinations(configs, 2):
        if folder_name(one).lower() == folder_name(other).lower():
            raise StudyError(f"{kind} '{one}' and '{other}' would share a folder; rename one")
        if configs[one] == configs[other]:
            raise StudyError(f"{kind} '{one}' and '{other}' are the same run; change one, or drop it")


def _point(
    content: Mapping[str, Any], shared: Config, settings: Config, name: str, layers: Sequence[Mapping[str, Any]]
) -> Config:
    """The configuration of a point: what is particular about it, and over that its level."""
    place = f"point '{name}'"
    overlays = take_overlays(layers[0], "overlays", default=take_overlays(content, "tuner", default=()))
    if not overlays:
        raise StudyError(f"{place} names no tuner; give it 'overlays', or the study 'tuner'")
    for layer in layers[1:]:
        overlays = (*overlays, *take_overlays(layer, "overlays", default=()))
    for layer in layers:
        settings = {**settings, **_settings(layer)}
    return _configured(_merged(shared, overlays), settings, place)


def _settings(particular: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in particular.items() if name != "overlays"}


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
        config = merge(config, read_overlay(path))
    return config
