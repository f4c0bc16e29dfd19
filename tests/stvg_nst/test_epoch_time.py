from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stvg_nst.commands.epoch import clock, epoch
from stvg_nst.configuration import ConfigurationError
from stvg_nst.epoch_time import Costs, epoch_time, exchange_time, read_costs

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "experiments" / "epochs").glob("*.yaml"))
ROUND = {
    "step": 0.1,
    "optimizer": 0.5,
    "inference": 0.05,
    "feed": 0.4,
    "cores": 8.0,
    "trained_bytes": 1e6,
    "link": 1e6,
    "network": 1e5,
    "latency": 0.01,
}


def write(tmp_path: Path, **changes: float | str) -> Path:
    terms = {name: {"value": value, "basis": "assumed", "source": "a test"} for name, value in ROUND.items()}
    for name in changes.keys() & terms.keys():
        terms[name]["value"] = changes[name]
    whole = {"title": "t", "training_clips": 1000, "validation_clips": 100, "effective_batch": 32, "cards_a_machine": 8}
    path = tmp_path / "costs.yaml"
    path.write_text(yaml.safe_dump({**whole, **terms, **{k: v for k, v in changes.items() if k not in terms}}))
    return path


def costs(tmp_path: Path, **changes: float | str) -> Costs:
    return read_costs(write(tmp_path, **changes))


def test_an_epoch_of_one_card_is_its_whole_steps_and_its_validation(tmp_path: Path) -> None:
    """31 steps of 32 clips; the 8 that fill no step are left out."""
    time = epoch_time(costs(tmp_path), 1)
    assert (time.steps, time.clips_a_step) == (31, 32)
    assert time.computing == pytest.approx(31 * (32 * 0.1 + 0.5)) and time.exchanging == time.waiting == 0
    assert time.validating == pytest.approx(100 * 0.05) and time.cores_needed == pytest.approx(4)
    assert time.total == pytest.approx(time.computing + time.validating)


def test_cards_share_the_clips_and_exchange_gradients_once_a_step(tmp_path: Path) -> None:
    time = epoch_time(costs(tmp_path), 4)
    assert time.computing == pytest.approx(31 * (8 * 0.1 + 0.5)) and time.validating == pytest.approx(25 * 0.05)
    # Six times around the ring, a quarter of a megabyte each, at a megabyte a second.
    assert time.exchanging == pytest.approx(31 * 6 * (0.25 + 0.01))


def test_more_cards_than_a_machine_holds_go_over_the_network(tmp_path: Path) -> None:
    found = costs(tmp_path)
    assert exchange_time(found, 8) == pytest.approx(14 * (1 / 8 + 0.01))
    assert exchange_time(found, 16) == pytest.approx(30 * (10 / 16 + 0.01))


def test_more_cards_than_clips_make_the_step_larger(tmp_path: Path) -> None:
    time = epoch_time(costs(tmp_path), 64)
    assert (time.clips_a_step, time.steps) == (64, 15) and time.computing == pytest.approx(15 * (0.1 + 0.5))


def test_a_card_waits_for_clips_where_its_cores_are_too_few(tmp_path: Path) -> None:
    time = epoch_time(costs(tmp_path, cores=2.0), 1)
    assert time.waiting == pytest.approx(31 * 32 * (0.2 - 0.1)) and time.validating == pytest.approx(100 * 0.2)


def test_a_batch_that_cannot_be_dealt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="32 clips of a step cannot be dealt evenly to 24 cards"):
        epoch_time(costs(tmp_path), 24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0.0}, "expected a positive number of 'step', got 0"),
        ({"feed": -1.0}, "expected a positive number of 'feed', got -1"),
        ({"stpe": 1.0}, "unknown field `stpe`"),
        ({"title": 3.0}, "Expected `str`, got `float`"),
    ],
)
def test_wrong_costs_are_refused(tmp_path: Path, changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        costs(tmp_path, **changes)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_costs_are_shown_with_what_they_rest_on(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert epoch([str(path), "--cards", "1", "8", "64"], "epoch") == 0
    shown = capsys.readouterr().out
    for name, term in read_costs(path).terms.items():
        assert f"{name} " in shown and f"{term.basis}: {term.source}" in shown
    times = [epoch_time(read_costs(path), cards).total for cards in (1, 8, 64)]
    assert times == sorted(times, reverse=True) and clock(times[0]) in shown


@pytest.mark.parametrize(("seconds", "shown"), [(0.42, "0.4 s"), (32.4, "32 s"), (300, "5 min"), (7800, "2 h 10 min")])
def test_durations_are_shown_as_one_says_them(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
