from __future__ import annotations

import pytest

from stvg_nst.results.was import weighted_adaptation_score, with_adaptation_scores


@pytest.mark.parametrize(
    ("gain", "drop", "expected"),
    [(4.3, 0.3, 4.0), (4.9, 2.8, 2.1)],  # NST and AdaLoRA in Sec. IV-B; Table II gives 3.98 and 2.19
)
def test_the_examples_of_the_paper(gain: float, drop: float, expected: float) -> None:
    score = weighted_adaptation_score(lq=20 + gain, lq_base=20, hq=30 - drop, hq_base=30)
    assert score == pytest.approx(expected)


def test_lambda_weighs_the_drop_alone() -> None:
    assert weighted_adaptation_score(25, 20, 28, 30, lambda_hq=0.5) == pytest.approx(4)
    assert weighted_adaptation_score(25, 20, 28, 30, lambda_hq=2) == pytest.approx(1)


def test_scores_need_both_qualities() -> None:
    metrics = {"LQ/m_vIoU": 25.0, "HQ/m_vIoU": 28.0, "LQ/declarative/m_vIoU": 1.0, "MQ/m_vIoU": 26.5}
    baseline = {"LQ/m_vIoU": 20.0, "HQ/m_vIoU": 30.0}
    assert with_adaptation_scores(metrics, baseline) == pytest.approx(metrics | {"WAS/m_vIoU": 3.0})


def test_scores_to_another_baseline_are_replaced() -> None:
    metrics = {"LQ/m_vIoU": 25.0, "HQ/m_vIoU": 28.0, "WAS/m_vIoU": 9.0, "WAS/m_tIoU": 9.0}
    found = with_adaptation_scores(metrics, {"LQ/m_vIoU": 20.0, "HQ/m_vIoU": 30.0}, lambda_hq=0.5)
    assert found == {"LQ/m_vIoU": 25.0, "HQ/m_vIoU": 28.0, "WAS/m_vIoU": 4.0}


def test_a_missing_baseline_metric_is_named() -> None:
    with pytest.raises(ValueError, match="needs HQ/m_vIoU of the zero-shot baseline, which has LQ/m_vIoU"):
        with_adaptation_scores({"LQ/m_vIoU": 25.0, "HQ/m_vIoU": 28.0}, {"LQ/m_vIoU": 20.0})
