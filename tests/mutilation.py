"""JSON documents as a careless hand, another program or a broken disc might leave them."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

ODDITIES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**40), 10**40),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=8),
    st.lists(st.integers(-5, 5), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested lists and objects."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


@st.composite
def mutilated(draw: st.DrawFn, whole: Any) -> Any:
    """A JSON value in which up to two places hold something else, or nothing, or what stands elsewhere in it."""
    value = deepcopy(whole)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(places(value)))
        if not place:
            return draw(ODDITIES)
        target = value
        for key in place[:-1]:
            target = target[key]
        change = draw(st.sampled_from(("replace", "move", "drop")))
        if change == "drop":
            del target[place[-1]]
        elif change == "move":
            target[place[-1]] = deepcopy(_at(value, draw(st.sampled_from(places(value)))))
        else:
            target[place[-1]] = draw(ODDITIES)
    return value


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value
