from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.footage import open_footage
from stvg_nst.commands.demo.comparison import Comparison
from stvg_nst.commands.demo.words import NO_MODEL, headline, meter, promise, verdict
from stvg_nst.prediction import Answer
from stvg_nst.types import Tube

FOOTAGE = open_footage(np.zeros((20, 8, 8, 3), dtype=np.uint8), fps=10)


def tube(start: int, stop: int) -> Tube:
    return Tube(start, stop, torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(stop - start, 1))


def answer(start: int, stop: int, quality: float | None = None) -> Answer:
    return Answer("a star spins", tube(start, stop), 0.5, quality, "mini", "NullSpaceTuning", (0, 20), FOOTAGE)


def comparison(before: Answer, after: Answer | None, truth: Tube | None = None) -> Comparison:
    return Comparison(before, after, truth, Path("frozen.mp4"), None if after is None else Path("tuned.mp4"))


@pytest.mark.parametrize(
    ("before", "after", "truth", "words"),
    [
        (
            (0, 5),
            (0, 10),
            (0, 10),
            "NST restores 50 points here: 50 % overlap with the truth before, 100 %",
        ),
        ((0, 10), (0, 5), (0, 10), "NST loses 50 points here"),
        ((0, 10), (0, 10), (0, 10), "NST leaves this answer as good as it is"),
        ((0, 10), (0, 5), None, "The two answers overlap by 50%. The truth of your film is not known here."),
        ((0, 10), (0, 10), None, "Both models answer the same."),
    ],
)
def test_a_finding_is_a_sentence(
    before: tuple[int, int], after: tuple[int, int], truth: tuple[int, int] | None, words: str
) -> None:
    found = comparison(answer(*before), answer(*after), None if truth is None else tube(*truth))
    assert headline(found).startswith(words)


def test_a_verdict_names_the_model_with_its_random_weights() -> None:
    tuned = replace(answer(0, 5), model="runs/<b>, RANDOM WEIGHTS, adapter 'b' (NullSpaceTuning)")
    assert "<p>runs/&lt;b&gt;, RANDOM WEIGHTS, adapter" in verdict(comparison(answer(0, 5), tuned))


def test_without_a_tuned_model_the_page_says_how_to_get_one() -> None:
    alone = comparison(answer(0, 5), None, tube(0, 10))
    assert verdict(alone) == NO_MODEL and "make train" in NO_MODEL
    assert meter(alone) == "" and promise(None) == ""


@pytest.mark.parametrize(("gate", "words"), [(0.9, "degraded, and lets"), (0.1, "clean, and holds")])
def test_the_meter_shows_what_the_router_says(gate: float, words: str) -> None:
    shown = meter(comparison(answer(0, 5), answer(0, 5, gate)))
    assert f"left:{100 * gate:.1f}%" in shown and words in shown


def test_a_run_without_certificate_says_how_to_get_one(tmp_path: Path) -> None:
    run = tmp_path / "<b>"
    run.mkdir()
    assert "certify" in promise(run) and "&lt;b&gt;" in promise(run)
