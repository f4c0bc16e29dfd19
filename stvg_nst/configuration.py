"""Configurations in YAML: one reader, and one meaning of an overlay over another, for the command line and studies."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import reduce
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

Config = Mapping[str, Any]

_COMPONENT = frozenset({"class_path", "init_args", "dict_kwargs"})
_SECTIONS = frozenset({"trainer", "model", "data"})
_COMPONENTS = ("data", "model.grounder", "model.tuner")
_MERGE = "tag:yaml.org,2002:merge"
_FLOAT = "tag:yaml.org,2002:float"


class ConfigurationError(ValueError):
    """A configuration that cannot be read; the message begins with the file, and the line where there is one."""


class RepeatedKeyError(ConfigurationError):
    """A mapping in YAML gives a key twice."""


class _RepeatedKey(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML keeps the last; takes 1e-3 for a number and 2024-01-31 for text.

    A key of a mapping may repeat a key that `<<` merges into it: the mapping's own value counts. An alias that makes a
    value contain itself is refused, too.
    """

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # PyYAML fills a list or a mapping later otherwise, and takes one that holds itself
        return super().construct_document(node)

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
            name = key.value if key.tag == _MERGE else str(self.construct_object(key))
            if name in seen:
                raise _RepeatedKey(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(name)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """Puts into quotation marks the texts that :class:`_Loader` would take for numbers, such as 1e3."""


# YAML 1.1 wants a dot and a sign in a number with an exponent.
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def load_yaml(text: str, source: str) -> Any:
    """What a text in YAML, and so in JSON, says.

    Args:
        source: where the text comes from, such as the file's name.

    Raises:
        ConfigurationError: it is no YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context)
        if "'\\t'" in problem:
            problem = "a tab where YAML wants spaces; indent with spaces"
        if problem == "found unconstructable recursive node":
            problem = "it contains itself; leave out the alias that leads back to it"
        if problem == "but found another document":
            problem = "a second document begins here; give each a file of its own"
        kind = RepeatedKeyError if isinstance(error, _RepeatedKey) else ConfigurationError
        raise kind(f"{source}{'' if mark is None else f', line {mark.line + 1}'}: {problem}") from error
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML does not know; 2024-13-01 tagged as a date
        raise ConfigurationError(f"{source}: {' '.join(str(error).split())}") from error


def dump_yaml(content: Config, *, in_a_line: bool = False, sort_keys: bool = False) -> str:
    """Settings as YAML, which :func:`load_yaml` reads as they are; ``in_a_line`` without a break."""
    width = math.inf if in_a_line else None
    return yaml.dump(dict(content), Dumper=_Dumper, default_flow_style=in_a_line, sort_keys=sort_keys, width=width)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a file in YAML holds.

    Raises:
        ConfigurationError: the file cannot be read, is no YAML in UTF-8, gives a key twice, or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is no text in UTF-8: byte {error.start} is {error.reason}") from error
    return _mapping(load_yaml(text, str(path)), str(path))


def _mapping(content: Any, source: str) -> dict[str, Any]:
    if content is None:
        raise ConfigurationError(f"{source}: expected a mapping of settings, but it is empty")
    if not isinstance(content, dict):
        raise ConfigurationError(f"{source}: expected a mapping of settings, got {type(content).__name__}")
    return content


def read_overlay(path: Path, *, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """An overlay, with the files that it names: ``config`` lies under it, and a .yaml in a value's place is that value.

    Such names are relative to the overlay's own folder.

    Args:
        above: the overlays that have named this one.

    Raises:
        ConfigurationError: one of them cannot be read, see :func:`read_yaml`, or they name each other.
    """
    place = os.path.realpath(path)
    if place in above:
        raise ConfigurationError(f"{path}: names itself, by way of the files that it names")
    return _whole(read_yaml(path), str(path), path.parent, (*above, place))


def parse_overlay(text: str, source: str) -> dict[str, Any]:
    """An overlay written on the command line. The files that it names are relative to the working directory.

    Raises:
        ConfigurationError: see :func:`read_overlay`.
    """
    return _whole(_mapping(load_yaml(text, source), source), source, Path(), ())


def files_of_overlays(overlays: Iterable[Path]) -> tuple[Path, ...]:
    """Overlays, and behind them all files that :func:`read_overlay` reads for them; none that is not there is read.

    Raises:
        ConfigurationError: one of them cannot be read.
    """
    found, waiting = dict.fromkeys(overlays), [*overlays]
    while waiting:
        file = waiting.pop()
        for named in _named_in(read_yaml(file), file.parent) if file.is_file() else ():
            if named not in found:
                found[named] = None
                waiting.append(named)
    return tuple(found)


def _named_in(content: Config, folder: Path) -> Iterator[Path]:
    """Files that lie under an overlay, or stand in the place of one of its values."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _named_in(value, folder)
        for file in value if isinstance(value, list) and name == "config" else [value]:
            if isinstance(file, str) and is_yaml_file(folder / file):
                yield Path(os.path.normpath(folder / file))


def _whole(content: dict[str, Any], source: str, folder: Path, above: tuple[str, ...]) -> dict[str, Any]:
    if empty := sorted(name for name in _SECTIONS & content.keys() if content[name] is None):
        raise ConfigurationError(f"{source}: '{empty[0]}' is empty; give it settings, or leave it out")
    named = content.pop("config", [])
    names = [named] if isinstance(named, str) else named
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigurationError(
            f"{source}: expected an overlay's name, or a list of such names as 'config', got {named!r}"
        )
    below = [read_overlay(folder / name, above=above) for name in names]
    own = _unfolded(_filled(content, folder, above), source)
    for name in _COMPONENTS:  # each may be given by its class alone
        if isinstance(kind := look_up(own, name), str):
            own = merge(own, nested(name, {"class_path": kind}))
    for name in sorted(_SECTIONS & own.keys()):
        if not isinstance(own[name], Mapping):
            raise ConfigurationError(f"{source}: expected settings as '{name}', got {own[name]!r}")
    return reduce(merge, [*below, own])


def _unfolded(content: dict[str, Any], source: str) -> dict[str, Any]:
    """A mapping whose dotted names, such as ``trainer.max_epochs``, are sections."""
    whole: dict[str, Any] = {}
    for name, value in content.items():
        section = nested(str(name), value)
        twice = next((leaf for leaf, _ in leaves(section) if look_up(whole, leaf) is not None), None)
        if twice is not None:
            raise RepeatedKeyError(f"{source}: '{twice}' is given twice, once by its dotted name")
        whole = merge(whole, section)
    return whole


def _filled(content: Any, folder: Path, above: tuple[str, ...]) -> Any:
    """A mapping with the files in place of their names, and with no arguments where ``init_args:`` lists none."""
    if isinstance(content, dict):
        bare: dict[str, Any] = {"init_args": {}} if content.get("init_args", ...) is None else {}
        return {name: _filled(value, folder, above) for name, value in {**content, **bare}.items()}
    if isinstance(content, str) and is_yaml_file(folder / content):
        return read_overlay(folder / content, above=above)
    return content


def is_yaml_file(path: Path) -> bool:
    return path.suffix in (".yaml", ".yml") and os.path.isfile(path)  # a text may be too long for a file's name


def merge(below: Config, above: Config) -> dict[str, Any]:
    """``above`` over ``below``: mappings are merged, ``name+`` appends to the list ``name``, all else is replaced.

    A component (``class_path``, ``init_args``) of another class takes no arguments from the one below: NST's rank would
    silently become LoRA's. Of the same class it takes those that it does not set itself. A component may be given in
    short: by its class alone, or over another one by its arguments alone.
    """
    if "class_path" in below and "class_path" in above and not _same_class(below["class_path"], above["class_path"]):
        below = {}
    merged = dict(below)
    for name, value in above.items():
        if isinstance(name, str) and name.endswith("+"):
            name = name.removesuffix("+")
            merged[name] = [*(merged.get(name) or ()), *(value if isinstance(value, list) else [value])]
        else:
            merged[name] = _laid_over(merged.get(name), value)
    return merged


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, str) and isinstance(above, Mapping) and above and above.keys() <= _COMPONENT:
        below = {"class_path": below}
    if isinstance(below, Mapping) and "class_path" in below:
        if isinstance(above, str):
            above = {"class_path": above}
        elif isinstance(above, Mapping) and not above.keys() & _COMPONENT:
            above = {"init_args": above}
    return merge(below, above) if isinstance(below, Mapping) and isinstance(above, Mapping) else above


def _same_class(one: Any, other: Any) -> bool:
    """Whether two names mean one class: the short name ``LoRA``, or a path through any module that imports it."""
    if one == other:
        return True
    if not (isinstance(one, str) and isinstance(other, str)):
        return False
    if one.rpartition(".")[2] != other.rpartition(".")[2]:
        return False
    if "." not in one or "." not in other:
        return True
    try:
        return resolve_name(one) is resolve_name(other)
    except (ImportError, AttributeError, ValueError):
        return False  # whoever builds it says that there is no such class


def look_up(config: Config, name: str) -> Any:
    """The value of a dotted name, in which ``init_args`` may be left out; ``None`` where there is none."""
    place: Any = config
    for part in name.split("."):
        if isinstance(place, Mapping) and "class_path" in place and part not in _COMPONENT:
            place = place.get("init_args")
        if not isinstance(place, Mapping) or part not in place:
            return None
        place = place[part]
    return place


def leaves(config: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping, and every empty mapping, by its dotted name."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(name: str, value: Any) -> dict[str, Any]:
    """The overlay that sets one dotted name.

    >>> nested("trainer.max_epochs", 4)
    {'trainer': {'max_epochs': 4}}
    """
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def differences(before: Config, now: Config) -> list[str]:
    """One line for each dotted name whose value differs, such as ``trainer.max_epochs: 4 before, 8 now``."""
    old, new = dict(leaves(before)), dict(leaves(now))
    return [
        f"{name}: {old.get(name, 'absent')!r} before, {new.get(name, 'absent')!r} now"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]
