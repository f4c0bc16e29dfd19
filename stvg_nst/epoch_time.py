"""How long an epoch of tuning takes on some cards: a cost model of few terms, each with where its number comes from.

A step of the optimiser follows the clips of the effective batch, dealt evenly to the cards. While a card computes one
batch, the processes of its loader prepare the next ones, so a clip takes the longer of the two. Then the gradients of
what is trained are summed around a ring of all cards. They are counted as if no card computed meanwhile, which is more
than it takes. A validation follows the epoch. What begins and ends a run once is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from stvg_nst.configuration import ConfigurationError, read_yaml

Basis = Literal["measured", "counted", "computed", "published", "assumed"]


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A number, what it rests on, and the command or the page that says it."""

    value: float
    basis: Basis
    source: str


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The terms of the model.

    Args:
        training_clips, validation_clips: of an epoch; a clip that validation shows twice counts twice.
        effective_batch: clips that a step follows, on all cards together, wherever there are no more cards than that.
        cards_a_machine: cards that are linked to each other; a ring of more goes over the network.
        step: seconds that a card takes for one clip of a step: encoders, forward, backward.
        optimizer: seconds of the optimiser, once a step.
        inference: seconds that a card takes for one clip of the validation.
        feed: processor seconds of one clip, until it is on the card.
        cores: processor cores that work on this, for each card.
        trained_bytes: of the gradients.
        link, network: bytes a second that a card sends within a machine, and to another one.
        latency: seconds until a first byte arrives at the next card.
    """

    title: str
    training_clips: int
    validation_clips: int
    effective_batch: int
    cards_a_machine: int
    step: Term
    optimizer: Term
    inference: Term
    feed: Term
    cores: Term
    trained_bytes: Term
    link: Term
    network: Term
    latency: Term

    @property
    def terms(self) -> dict[str, Term]:
        return {name: value for name in self.__struct_fields__ if isinstance(value := getattr(self, name), Term)}


@dataclass(frozen=True, slots=True)
class EpochTime:
    """Seconds of an epoch by what they go by.

    Args:
        clips_a_step: the effective batch, or one clip a card where there are more cards.
        computing: on the cards.
        waiting: of the cards, for clips.
        exchanging: gradients.
        cores_needed: processor cores for each card with which it would not wait in a step.
    """

    cards: int
    clips_a_step: int
    steps: int
    computing: float
    waiting: float
    exchanging: float
    validating: float
    cores_needed: float

    @property
    def total(self) -> float:
        return self.computing + self.waiting + self.exchanging + self.validating


def read_costs(path: Path) -> Costs:
    """The terms from a file.

    Raises:
        ConfigurationError: one is missing, unknown, of another type, or not positive.
    """
    try:
        costs = msgspec.convert(read_yaml(path), Costs, strict=True)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    counts = {name: getattr(costs, name) for name in ("training_clips", "effective_batch", "cards_a_machine")}
    # Nothing is exchanged by one process, and an optimiser may be part of what was measured as a step.
    free = {"optimizer", "trained_bytes", "latency", "feed"}
    for name, value in [*counts.items(), *((name, term.value) for name, term in costs.terms.items())]:
        if value < 0 or (value == 0 and name not in free):
            raise ConfigurationError(f"{path}: expected a positive number of '{name}', got {value:g}")
    return costs


def epoch_time(costs: Costs, cards: int) -> EpochTime:
    """What the model says.

    Raises:
        ConfigurationError: the effective batch cannot be dealt evenly.
    """
    clips_a_step = max(costs.effective_batch, cards)
    if cards < 1 or clips_a_step % cards:
        raise ConfigurationError(
            f"{clips_a_step} clips of a step cannot be dealt evenly to {cards} cards; give numbers that divide "
            f"the effective batch of {costs.effective_batch}, or larger ones"
        )
    steps = costs.training_clips // clips_a_step
    clips = steps * clips_a_step // cards
    fed = costs.feed.value / costs.cores.value
    shown = costs.validation_clips / cards
    return EpochTime(
        cards,
        clips_a_step,
        steps,
        computing=clips * costs.step.value + steps * costs.optimizer.value,
        waiting=clips * max(0.0, fed - costs.step.value),
        exchanging=steps * exchange_time(costs, cards),
        validating=shown * max(costs.inference.value, fed),
        cores_needed=costs.feed.value / costs.step.value,
    )


def exchange_time(costs: Costs, cards: int) -> float:
    """Seconds to sum the gradients around a ring: each card sends 2 (n - 1) parts of 1 / n of them.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (JPDC 2009), which NCCL and Gloo follow.
    """
    rate = (costs.link if cards <= costs.cards_a_machine else costs.network).value
    return 2 * (cards - 1) * (costs.trained_bytes.value / cards / rate + costs.latency.value)
