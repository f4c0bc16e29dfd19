"""YAML overlays, merged without the command line: what a run is asked for, as one mapping that can be compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Config = Mapping[str, Any]


class StudyError(ValueError):
    """A study that cannot be run or reported as it is written; the message says where, and what to do."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would keep the last, and reads 1e-3 as the number it is."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot in a number with an exponent; the command line does not.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        StudyError: the file cannot be read, is no YAML, gives a key twice, or holds something else than a mapping.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise StudyError(f"{path}: expected a mapping, got {type(content).__name__}")
    return content


def merge(below: Config, above: Config) -> dict[str, Any]:
    """``above`` over ``below``: mappings are merged, ``name+`` appends to the list ``name``, all else is replaced.

    A component (``class_path``, ``init_args``) of another class takes no arguments from the one below, whereas the
    command line would keep those of the same name: NST's rank would silently become LoRA's.
    """
    merged = dict(below)
    if "class_path" in above and above["class_path"] != below.get("class_path"):
        merged.pop("init_args", None)
    for name, value in above.items():
        if name.endswith("+"):
            name = name.removesuffix("+")
            value = [*merged.get(name, ()), *(value if isinstance(value, list) else [value])]
        elif isinstance(value, Mapping) and isinstance(merged.get(name), Mapping):
            value = merge(merged[name], value)
        merged[name] = value
    return merged


def override(config: Config, name: str, value: Any) -> dict[str, Any]:
    """The configuration with one dotted name set, e.g. ``model.tuner.init_args.rank``.

    Raises:
        StudyError: the name leads nowhere. Its last part may be new, for overlays need not list every option; whether
            the option exists is for the run to find out.
    """
    *parents, last = name.split(".")
    place: Any = config
    for depth, parent in enumerate(parents):
        is_bare = parent == "init_args" and "class_path" in place  # a component without arguments may be given some
        place = place.get(parent, {} if is_bare else None)
        if not isinstance(place, Mapping):
            raise StudyError(f"'{name}' sets nothing: the overlays have no section '{'.'.join(parents[: depth + 1])}'")
    if "class_path" in place and last not in ("class_path", "init_args"):
        instead = ".".join((*parents, "init_args", last))
        raise StudyError(f"'{name}' sets nothing: arguments of a component are its init_args; write '{instead}'")
    nested: Any = {last: value}
    for parent in reversed(parents):
        nested = {parent: nested}
    return merge(config, nested)


def differences(before: Config, now: Config) -> list[str]:
    """One line for each dotted name whose value differs, such as ``trainer.max_epochs: 4 before, 8 now``."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{name}: {old.get(name, 'absent')!r} before, {new.get(name, 'absent')!r} now"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def _leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
