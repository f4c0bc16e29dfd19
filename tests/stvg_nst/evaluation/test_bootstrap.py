"""Intervals are over clips, whatever their sentences are called."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stvg_nst.evaluation import evaluate, parse_ground_truth, parse_predictions
from stvg_nst.evaluation.bootstrap import clip_rows, drawn_counts, interval, p_value

BOX = [0, 0, 10, 10]


def width(item_ids: list[str], **fields: list[str]) -> float:
    """Of the interval of HQ/m_vIoU, where every second pair of items is found whole and the others in part."""
    tubes: list[dict[str, Any]] = [
        {"item_id": item, "start": 0, "stop": 10, "boxes": [BOX] * 10, **{name: own[i] for name, own in fields.items()}}
        for i, item in enumerate(item_ids)
    ]
    lengths = [10 if index // 2 % 2 else 2 for index in range(len(item_ids))]
    answers = [
        {"item_id": item, "start": 0, "stop": length, "boxes": [BOX] * length}
        for item, length in zip(item_ids, lengths, strict=True)
    ]
    header = {"version": 1, "tubes": tubes, "dataset": "Tiny", "split": "test", "format": "stvg-ground-truth"}
    found = {"version": 1, "tubes": answers, "method": "Mine", "format": "stvg-predictions"}
    evaluation = evaluate(
        parse_predictions(found), parse_ground_truth(header), protocols=["half_open"], bootstrap=4000, seed=1
    )
    low, high = evaluation.protocols["half_open"].intervals["HQ/m_vIoU"]
    return high - low


def test_two_sentences_about_a_clip_say_no_more_than_one() -> None:
    one_by_one = width([f"item-{index}" for index in range(80)])
    of_clips = width([f"clip-{index // 2}/{index}" for index in range(80)])
    assert of_clips == pytest.approx(one_by_one * 2**0.5, rel=0.1)
    named = width([f"item-{index}" for index in range(80)], clip=[f"film {index // 2}" for index in range(80)])
    assert named == pytest.approx(of_clips, rel=0.05)


def test_a_clip_is_a_text() -> None:
    with pytest.raises(ValueError, match=r"tubes\[0\]\.clip: expected a text that is not empty, got 3"):
        width(["a"], clip=[3])  # type: ignore[list-item]


def test_draws_are_those_of_the_seed_however_many_at_once() -> None:
    few, many = (np.concatenate([*drawn_counts(7, count, seed=3)]) for count in (70, 130))
    assert (few.sum(axis=1) == 7).all() and (many[:70] == few).all()
    assert clip_rows(["b", "a", "b"])[0].tolist() == [1, 0, 1]


def test_what_is_never_defined_has_no_interval() -> None:
    assert np.isnan(interval(np.array([np.nan]))).all()
    assert interval(np.array([1.0, np.nan, 3.0])) == pytest.approx((1.05, 2.95))


def test_a_p_value_counts_the_replicates_beyond_zero_and_the_sample_itself() -> None:
    # Of 9 replicates 1 lies below 0, of 8 others and 1 that is not defined none does.
    assert p_value(np.array([-1.0, 1, 2, 3, 4, 5, 6, 7, 8])) == pytest.approx(2 * 2 / 10)
    assert p_value(np.array([1.0, 1, 2, 3, 4, 5, 6, 7, np.nan])) == pytest.approx(2 * 1 / 9)
    assert p_value(-np.array([1.0, 1, 2, 3, 4, 5, 6, 7])) == pytest.approx(2 * 1 / 9)
    assert p_value(np.zeros(5)) == 1 and np.isnan(p_value(np.array([np.nan])))


def test_a_p_value_agrees_with_the_interval() -> None:
    for shift in (1.5, 1.9, 2.0, 2.1, 2.5):
        values = np.random.default_rng(0).normal(shift, 1, 100_000)
        assert (p_value(values) < 0.05) is (interval(values)[0] > 0)
