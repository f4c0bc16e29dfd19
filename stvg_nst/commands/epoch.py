"""`epoch`: how long an epoch takes on one card, on eight, on sixty-four, by a cost model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stvg_nst.command_line.arguments import CommandParser, positive_int
from stvg_nst.epoch_time import Costs, EpochTime, epoch_time, read_costs

COLUMNS = ("cards", "steps", "batch", "compute", "wait", "gradients", "validation", "epoch", "cores")
LEGEND = "batch: clips of a step. wait: of the cards, for clips. cores: that each card needs to wait for none."


def epoch(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program,
        description="Compute how long an epoch of tuning takes on some numbers of cards, from a file of costs and "
        "their sources (experiments/epochs).",
    )
    parser.add_argument("costs", type=Path, help="the costs' .yaml")
    parser.add_argument(
        "--cards", type=positive_int, nargs="+", default=[1, 8, 64], help="numbers of cards (default: 1 8 64)"
    )
    options = parser.parse_args(arguments)
    costs = read_costs(options.costs)
    print(f"An epoch, computed: {costs.title}\n\n{_line(COLUMNS)}")
    for cards in options.cards:
        print(_line(_cells(epoch_time(costs, cards))))
    print(f"\n{LEGEND}\n\n{_terms(costs)}")
    return 0


def clock(seconds: float) -> str:
    """Such as 0.4 s, 32 s, 5 min, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _cells(time: EpochTime) -> tuple[str, ...]:
    parts = time.computing, time.waiting, time.exchanging, time.validating, time.total
    return str(time.cards), str(time.steps), str(time.clips_a_step), *map(clock, parts), f"{time.cores_needed:.1f}"


def _line(cells: Sequence[str]) -> str:
    return " ".join(f"{cell:>{max(7, len(column))}}" for cell, column in zip(cells, COLUMNS, strict=True))


def _terms(costs: Costs) -> str:
    """What it rests on, a line each."""
    return "\n".join(f"{name:13} {term.value:<9.3g} {term.basis}: {term.source}" for name, term in costs.terms.items())
