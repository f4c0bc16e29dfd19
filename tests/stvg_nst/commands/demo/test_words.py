from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.footage import open_footage
from stvg_nst.commands.demo.comparison import Comparison
from stvg_nst.commands.demo.words import headline, meter, promise, verdict
from stvg_nst.prediction import Answer
from stvg_nst.report.certificate import Certificate, OutputChange, to_json
from stvg_nst.types import Tube
from tests.stvg_nst.report.test_certificate import CERTIFICATE

FOOTAGE = open_footage(np.zeros((20, 8, 8, 3), dtype=np.uint8), fps=10)


def tube(start: int, stop: int) -> Tube:
    return Tube(start, stop, torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(stop - start, 1))


def answer(start: int, stop: int, quality: float | None = None, method: str = "NullSpaceTuning") -> Answer:
    return Answer("a star spins", tube(start, stop), 0.5, quality, "mini", method, (0, 20), FOOTAGE, 0.38)


def comparison(before: Answer, after: Answer, truth: Tube | None = None, *, hard: bool = True) -> Comparison:
    return Comparison(before, after, truth, hard, Path("frozen.mp4"), Path("tuned.mp4"))


FOUND = comparison(answer(0, 5), answer(0, 5))


@pytest.mark.parametrize(
    ("before", "after", "truth", "words"),
    [
        ((0, 5), (0, 10), (0, 10), "NST restores 50 points here: 50 % overlap with the truth before, 100 %"),
        ((0, 10), (0, 5), (0, 10), "NST loses 50 points here"),
        ((0, 1), (0, 6), (0, 7), "NST restores 72 points here: 14 % overlap with the truth before, 86 %"),
        ((0, 10), (10, 20), (5, 15), "NST leaves this answer as good as it is"),
        ((0, 10), (0, 10), (0, 20), "Both models give the same answer. It overlaps with the truth by 50 %."),
        ((0, 10), (0, 5), None, "The two answers overlap by 50 %. What is true is not known here."),
        ((0, 10), (0, 10), None, "Both models give the same answer. What is true is not known here."),
    ],
)
def test_a_finding_is_a_sentence(
    before: tuple[int, int], after: tuple[int, int], truth: tuple[int, int] | None, words: str
) -> None:
    found = comparison(answer(*before), answer(*after), None if truth is None else tube(*truth))
    assert headline(found).startswith(words)


def test_another_method_is_called_by_its_name_and_promises_nothing() -> None:
    found = comparison(answer(0, 5), answer(0, 10, method="LoRA"), tube(0, 10))
    assert headline(found).startswith("LoRA restores 50 points")
    assert meter(found) == promise(None, found) == ""


def test_a_verdict_names_the_model_with_its_random_weights() -> None:
    tuned = replace(answer(0, 5), model="runs/<b>, RANDOM WEIGHTS, adapter 'b' (NullSpaceTuning)")
    assert "<p>runs/&lt;b&gt;, RANDOM WEIGHTS, adapter" in verdict(comparison(answer(0, 5), tuned))


@pytest.mark.parametrize(
    ("quality", "hard", "words"),
    [
        (0.9, True, "above 0.38, the line in the bar: <b>the gate is open</b>"),
        (0.1, True, "not above 0.38, the line in the bar: <b>the gate is shut</b>, and the answer is"),
        (0.9, False, "The gate is soft: the tuned part acts by about 90 %."),
    ],
)
def test_the_meter_shows_what_the_router_says(quality: float, hard: bool, words: str) -> None:
    shown = meter(comparison(answer(0, 5), answer(0, 5, quality), hard=hard))
    assert f"left:{100 * quality:.1f}%' class='needle'" in shown and words in shown
    assert ("class='mark'" in shown) is hard


def test_a_run_without_certificate_says_how_to_get_one(tmp_path: Path) -> None:
    run = tmp_path / "<b>"
    run.mkdir()
    assert "certify" in promise(run, FOUND) and "&lt;b&gt;" in promise(run, FOUND)
    assert "docs/certificate.md" in promise(None, FOUND)


def test_a_certificate_of_another_adapter_promises_nothing(tmp_path: Path) -> None:
    (tmp_path / "certificate.json").write_text(to_json(CERTIFICATE))
    assert "checked on clips of" in promise(tmp_path, FOUND), "the adapter is gone, its certificate stands"
    (tmp_path / "adapter.safetensors").write_bytes(b"of a later fit")
    assert "is not known: " in (said := promise(tmp_path, FOUND)) and "is of another adapter than" in said


def test_a_certificate_is_told_in_words(tmp_path: Path) -> None:
    def told(*changes: OutputChange) -> str:
        certificate = Certificate(
            *("runs/nst", "ab" * 32, "hard", "separate", "svd", "MiniSTVG", "test"),
            *({"benchmark_seed": 0}, 0, "cpu", (), changes),
        )
        (tmp_path / "certificate.json").write_text(to_json(certificate))
        return promise(tmp_path, FOUND)

    shut = OutputChange("closed", "HQ", 16, "guarantee", 0.0, 0.0, 0.0, 0.0, 0, 0)
    own = OutputChange("own", "HQ", 16, "observation", 0.0, 0.0, 0.0, 0.0, 0, 0)
    spoilt = replace(own, clips="LQ", boxes=0.5, tubes=9)
    words = told(shut, own, spoilt, replace(shut, gate="own", clips="closed", count=7))
    assert "bit for bit. All 23 answers hold to it." in words
    assert "on clean clips all 16 answers are the frozen model's, bit for bit." in words
    assert "on degraded clips 9 of 16 answers differ from the frozen model's." in words
    assert "16 of 16 answers break it: a bug." in told(replace(shut, boxes=0.1))
    assert "Limited for any clip" in told(replace(shut, standing="bound", tubes=3))
