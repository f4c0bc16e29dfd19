from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from stvg_nst.evaluation import evaluate
from stvg_nst.evaluation.separation import auroc, separation
from tests.stvg_nst.evaluation.test_evaluator import HITS, answer, truth


def test_auroc_by_hand_and_by_another_program() -> None:
    assert auroc(np.array([0.5, 0.9]), np.array([0.1, 0.5])) == pytest.approx((0.5 + 1 + 1 + 1) / 4)
    generator = np.random.default_rng(0)
    low, high = generator.integers(0, 8, 40) / 8, generator.integers(0, 6, 30) / 8
    labels = torch.tensor([1] * len(low) + [0] * len(high))
    expected = binary_auroc(torch.tensor(np.concatenate([low, high])), labels).item()
    assert auroc(low, high) == pytest.approx(expected, abs=1e-6)


def test_every_kind_and_severity_is_told_from_all_clean_samples() -> None:
    conditions = ("HQ", "HQ", "defocus:1", "defocus:2", "low_light:1")
    verdicts = np.array([0.2, 0.6, 0.4, 0.9, 0.1])
    assert separation(conditions, verdicts) == {
        "LQ": 0.5,
        "defocus": 0.75,
        "low_light": 0.0,
        "severity-1": 0.25,
        "severity-2": 1.0,
        "defocus:1": 0.5,
        "defocus:2": 1.0,
        "low_light:1": 0.0,
    }
    assert separation(conditions[2:], verdicts[2:]) == {}
    assert separation(conditions[:2], verdicts[:2]) == {}


def test_an_evaluation_counts_the_verdicts_that_were_asked_for() -> None:
    said = answer({**HITS, ("stranger", "HQ"): 4}, verdicts=[0.1, 0.3, 0.2, 0.9, 0.3, 0.4, 1.0])
    found = evaluate(said, truth(), unknown="ignore")
    assert found.separation["LQ"] == pytest.approx((2.5 + 3 + 3) / 9)
    assert found.separation["low_light:3"] == 1.0
    assert evaluate(answer(HITS), truth()).separation == {}
