"""What is particular to a study's configurations: settings by dotted names, and the error of one that cannot be run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stvg_nst.configuration import Config, ConfigurationError, merge, nested


class StudyError(ConfigurationError):
    """A study that cannot be run or reported as it is written; the message says where, and what to do."""


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
    return merge(config, nested(name, value))
