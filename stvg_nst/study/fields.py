"""The entries of a study file, each checked as it is taken out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import inf
from pathlib import Path
from typing import Any

from stvg_nst.command_line.arguments import MOST_SEED
from stvg_nst.study.overlays import StudyError

_KINDS: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    (int, float): "a number",
}


def folder_name(point: str) -> str:
    """A point's name as part of a path.

    >>> folder_name("no QAU (eq. 3)")
    'no-QAU-eq.-3'
    """
    return re.sub(r"[^\w.@+-]+", "-", point).strip("-")


def take(content: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
    """An entry, checked for its kind.

    Raises:
        StudyError: it has another kind, or is missing and has no default. All functions here raise it.
    """
    value = content.get(name, default)
    if value is None:
        raise StudyError(f"'{name}' is missing")
    # YAML's true is a number to isinstance.
    if name in content and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
        raise StudyError(f"'{name}' must be {_KINDS[kind]}, got {value!r}")
    return value


def refuse_unknown(content: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for name in content:
        if name not in known:
            guess = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{guess[0]}'?" if guess else f"it knows {', '.join(known)}"
            raise StudyError(f"{place} has an unknown key '{name}'; {hint}")


def take_seeds(content: Mapping[str, Any]) -> tuple[int, ...]:
    seeds = take(content, "seeds", list)
    sound = all(type(seed) is int and 0 <= seed <= MOST_SEED for seed in seeds)
    if not seeds or not sound or len(set(seeds)) < len(seeds):
        raise StudyError(
            f"'seeds' must be a list of different whole numbers from 0 to {MOST_SEED}, such as [0, 1, 2], got {seeds!r}"
        )
    return tuple(seeds)


def take_minutes(content: Mapping[str, Any]) -> float:
    minutes = take(content, "minutes_per_run", (int, float))
    if not 0 < minutes < inf:
        raise StudyError(f"'minutes_per_run' must be positive and finite, got {minutes!r}")
    return float(minutes)


def take_overlays(content: Mapping[str, Any], name: str, default: Sequence[Path] | None = None) -> tuple[Path, ...]:
    paths = take(content, name, list, default=default)
    if not all(isinstance(path, str | Path) for path in paths):
        raise StudyError(f"'{name}' must be a list of overlays' paths, got {paths!r}")
    return tuple(Path(path) for path in paths)


def take_factor(content: Mapping[str, Any], kind: str) -> dict[str | None, Any]:
    """The entries of a factor by name; one without a name where the study does not vary it."""
    return dict[str | None, Any](take_named(content, kind).items()) if kind in content else {None: {}}


def take_named(content: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The entries of a factor, by names that can be folders."""
    entries = take(content, kind, dict)
    for name, particular in entries.items():
        if not isinstance(name, str) or not any(map(str.isalnum, name)):
            raise StudyError(
                f"a {kind.removesuffix('s')}'s name must be text with letters or digits, got {name!r}; put it in quotes"
            )
        if not isinstance(particular, dict):
            raise StudyError(
                f"{kind.removesuffix('s')} '{name}' must be a mapping of dotted names to values, {{}} for none, "
                f"got {particular!r}"
            )
    if not entries:
        raise StudyError(f"'{kind}' is empty; name at least one")
    return entries


def matching(entries: Mapping[str, Any], patterns: Sequence[str], place: str) -> dict[str, Any]:
    for pattern in patterns:
        if not any(fnmatchcase(name, str(pattern)) for name in entries):
            raise StudyError(f"none of the {place} is named '{pattern}'; they are {', '.join(entries)}")
    return {name: entry for name, entry in entries.items() if any(fnmatchcase(name, str(p)) for p in patterns)}
