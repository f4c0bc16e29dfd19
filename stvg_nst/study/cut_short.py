"""A study cut short by its section ``quick``: fewer seeds and points, fewer steps, other overlays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stvg_nst.study.fields import matching, take, take_named, take_overlays, take_seeds
from stvg_nst.study.overlays import StudyError

FACTORS = ("points", "levels", "tests", "grounders")
QUICK_KEYS = ("seeds", "minutes_per_run", "set", "instead", *FACTORS)
_LISTS_OF_FILES = ("overlays", "baseline", "tuner", "chosen")


def cut_short(content: Mapping[str, Any]) -> dict[str, Any]:
    """The study with its section ``quick`` applied, and a title that says so."""
    changes = take(content, "quick", dict, default={})
    if not changes:
        raise StudyError("has no section 'quick'; write one, or leave --quick out")
    instead = take(changes, "instead", dict, default={})
    short = dict(_exchanged(content, instead)) | {n: changes[n] for n in ("seeds", "minutes_per_run") if n in changes}
    settings = take(changes, "set", dict, default={})
    short["set"] = take(content, "set", dict, default={}) | settings
    for name in FACTORS:
        if name in changes:
            short[name] = matching(take_named(short, name), take(changes, name, list), name)
    count = len(seeds_of(short))
    seeds = [f"{count} seed" + ("s" if count > 1 else "")] if count else []
    words = ", ".join((*seeds, *(f"{name}={value}" for name, value in settings.items()))) or "cut short"
    return short | {"title": f"QUICK: {words}. {take(content, 'title', str)}"}


def _exchanged(content: Mapping[str, Any], instead: Mapping[str, str]) -> dict[str, Any]:
    """The content with some overlays in the place of others, wherever it lists them.

    Raises:
        StudyError: one that is to be replaced is not there.
    """
    if unknown := sorted(set(instead) - set(files_in(content))):
        raise StudyError(f"'instead' replaces '{unknown[0]}', which the study does not use; correct it, or drop it")

    def exchanged(key: str, value: Any) -> Any:
        if key in _LISTS_OF_FILES:
            return [instead.get(path, path) for path in value]
        return {k: exchanged(k, v) for k, v in value.items()} if isinstance(value, Mapping) else value

    return {key: exchanged(key, value) for key, value in content.items()}


def seeds_of(content: Mapping[str, Any]) -> tuple[int, ...]:
    """Those of the points; a study without points has none."""
    return take_seeds(content) if "points" in content or "published" not in content else ()


def files_in(content: Mapping[str, Any]) -> Iterator[str]:
    """All overlays and chosen settings that the content lists, wherever that is.

    Raises:
        StudyError: what stands there is no list of paths.
    """
    for key, value in content.items():
        if key in _LISTS_OF_FILES:
            take_overlays(content, key)
            yield from value
        elif isinstance(value, Mapping):
            yield from files_in(value)
