"""The language of MiniSTVG: what a sentence says, what it means, and what it points at.

A sentence is written from a :class:`Meaning` and can be read back with :func:`understand`; :func:`events_of` then
evaluates the meaning over a cast. Every sentence of the benchmark is checked along that whole way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

import numpy as np

from datamodules.ministvg.actors import ACTIONS, COLOURS, SHAPES, SIZES, Action, Actor, Colour, Shape, Size

Attribute = Literal["shape", "colour", "size", "action"]
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)

_Choice = TypeVar("_Choice")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a sentence says; ``None`` leaves an attribute open (an open action is any action but idle)."""

    shape: Shape | None
    colour: Colour | None
    size: Size | None
    action: Action | None

    def without(self, attribute: Attribute) -> Meaning:
        """The same meaning with one attribute left open."""
        return replace(self, **{attribute: None})


@dataclass(frozen=True, slots=True)
class Event:
    """An actor, by its index in the cast, that performs one action over the half-open span ``[start, stop)``."""

    actor: int
    start: int
    stop: int


def events_of(meaning: Meaning, cast: Sequence[Actor]) -> tuple[Event, ...]:
    """Every event of the cast that the meaning describes."""
    found = []
    for index, actor in enumerate(cast):
        looks = actor.looks
        named = ((meaning.shape, looks.shape), (meaning.colour, looks.colour), (meaning.size, looks.size))
        if any(said is not None and said != seen for said, seen in named):
            continue
        for segment in actor.segments:
            if segment.action == meaning.action or (meaning.action is None and segment.action != "idle"):
                found.append(Event(index, segment.start, segment.stop))
    return tuple(found)


def declare(rng: np.random.Generator, meaning: Meaning) -> str:
    """A declarative sentence that names all four attributes of ``meaning``."""
    return _fill(rng, _DECLARATIVE, meaning)


def ask(rng: np.random.Generator, meaning: Meaning, asked: Attribute) -> str:
    """A question for the ``asked`` attribute, which names the other three."""
    return _fill(rng, _INTERROGATIVE[asked], meaning)


def understand(sentence: str) -> Meaning:
    """Read a sentence of this language back.

    Raises:
        ValueError: the sentence names two values of one attribute, or none of any.
    """
    text = f" {sentence.rstrip('?').strip()} "
    return Meaning(
        shape=_named(text, {shape: _SHAPE_WORDS[shape] for shape in SHAPES}),
        colour=_named(text, {colour: _COLOUR_WORDS[colour] for colour in COLOURS}),
        size=_named(text, {size: _SIZE_WORDS[size] for size in SIZES}),
        action=_named(text, {action: sum(phrases, ()) for action, phrases in _ACTION_PHRASES.items()}),
    )


def all_sentences_sample(seed: int, n: int) -> tuple[str, ...]:
    """``n`` sentences drawn from the whole language, both kinds alike, to fit a tokenizer on without any clip."""
    rng = np.random.Generator(np.random.PCG64(seed))
    sentences = []
    for _ in range(n):
        meaning = Meaning(
            pick(rng, SHAPES), pick(rng, COLOURS), pick(rng, SIZES), pick(rng, tuple(a for a in ACTIONS if a != "idle"))
        )
        sentences.append(declare(rng, meaning) if rng.random() < 0.5 else ask(rng, meaning, pick(rng, ATTRIBUTES)))
    return tuple(sentences)


def pick(rng: np.random.Generator, choices: Sequence[_Choice]) -> _Choice:
    """One of ``choices``, uniformly, as the object it is (``Generator.choice`` would return a NumPy string)."""
    return choices[int(rng.integers(len(choices)))]


def _named(text: str, words: Mapping[_Choice, Sequence[str]]) -> _Choice | None:
    values = [value for value, synonyms in words.items() if any(f" {word} " in text for word in synonyms)]
    if len(values) > 1:
        raise ValueError(f"expected at most one of {list(words)} in a sentence, got {values} in '{text.strip()}'")
    return values[0] if values else None


def _fill(rng: np.random.Generator, templates: Sequence[str], meaning: Meaning) -> str:
    assert meaning.shape, meaning
    assert meaning.colour, meaning
    assert meaning.size, meaning
    assert meaning.action, meaning
    does, doing = pick(rng, _ACTION_PHRASES[meaning.action])
    return pick(rng, templates).format(
        shape=pick(rng, _SHAPE_WORDS[meaning.shape]),
        colour=pick(rng, _COLOUR_WORDS[meaning.colour]),
        size=pick(rng, _SIZE_WORDS[meaning.size]),
        does=does,
        doing=doing,
    )


# No value word begins with a vowel, so that "a" is always right, and no word stands for two values.
_SHAPE_WORDS: dict[Shape, tuple[str, ...]] = {
    "circle": ("circle", "ball", "disc"),
    "square": ("square", "box", "block"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
}
_COLOUR_WORDS: dict[Colour, tuple[str, ...]] = {
    "red": ("red",),
    "yellow": ("yellow",),
    "green": ("green",),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "white": ("white",),
}
_SIZE_WORDS: dict[Size, tuple[str, ...]] = {"small": ("small", "little", "tiny"), "large": ("large", "big")}

# (what it does, what it is doing)
_ACTION_PHRASES: dict[Action, tuple[tuple[str, str], ...]] = {
    "slide_left": (
        ("slides to the left", "sliding to the left"),
        ("glides left", "gliding left"),
        ("drifts to the left side", "drifting to the left side"),
    ),
    "slide_right": (
        ("slides to the right", "sliding to the right"),
        ("glides right", "gliding right"),
        ("drifts to the right side", "drifting to the right side"),
    ),
    "jump": (("jumps up and down", "jumping up and down"), ("hops", "hopping"), ("bounces", "bouncing")),
    "spin": (("spins", "spinning"), ("turns around", "turning around"), ("rotates", "rotating")),
    "sway": (
        ("sways from side to side", "swaying from side to side"),
        ("swings to and fro", "swinging to and fro"),
        ("rocks gently", "rocking gently"),
    ),
    "pulse": (("grows and shrinks", "growing and shrinking"), ("pulses", "pulsing"), ("swells up", "swelling up")),
    "shake": (("shakes", "shaking"), ("trembles", "trembling"), ("shivers", "shivering")),
    "fade": (
        ("fades in and out", "fading in and out"),
        ("vanishes and comes back", "vanishing and coming back"),
        ("becomes faint", "becoming faint"),
    ),
}
_DECLARATIVE = (
    "a {size} {colour} {shape} {does}",
    "the {size} {colour} {shape} {does}",
    "a {size} {colour} {shape} is {doing}",
    "there is a {size} {colour} {shape} that {does}",
    "for some time the {size} {colour} {shape} {does}",
    "a {colour} {shape} which is {size} {does}",
)
_INTERROGATIVE: dict[Attribute, tuple[str, ...]] = {
    "shape": (
        "what {size} {colour} thing {does}?",
        "which {size} {colour} figure is {doing}?",
        "what is the {size} {colour} thing that {does}?",
        "what shape has the {size} {colour} one that is {doing}?",
    ),
    "colour": (
        "what colour is the {size} {shape} that {does}?",
        "which colour has the {size} {shape} that is {doing}?",
        "what is the colour of the {size} {shape} which {does}?",
    ),
    "size": (
        "what size is the {colour} {shape} that {does}?",
        "which size has the {colour} {shape} that is {doing}?",
        "what is the size of the {colour} {shape} which {does}?",
    ),
    "action": (
        "what does the {size} {colour} {shape} do?",
        "what is the {size} {colour} {shape} doing?",
        "how does the {size} {colour} {shape} move?",
        "what happens to the {size} {colour} {shape}?",
    ),
}
