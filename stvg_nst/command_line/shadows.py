"""Packages of ours that another of the same name would hide."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("callbacks", "datamodules")


def refuse_shadows() -> None:
    """Python looks for packages in the working directory first, and ours have names that others use too.

    Raises:
        ValueError: something else would be imported in the place of one of ours.
    """
    for name in PACKAGES:
        found = find_spec(name)
        place = None if found is None else found.origin
        own = Path(__file__).resolve().parents[2] / name / "__init__.py"
        if place is None or Path(place).resolve() != own:
            raise ValueError(
                f"expected the package '{name}' of this suite, '{own}', but Python finds '{place}'; rename that, or "
                "run the command elsewhere"
            )
