from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stvg_nst.evaluation import (
    CoverageError,
    Evaluation,
    GroundTruth,
    Predictions,
    bootstrap,
    evaluate,
    parse_ground_truth,
    parse_predictions,
    scoring,
)

BOX = [0, 0, 10, 10]
CONDITIONS = {"a": ["HQ", "defocus:1"], "b": ["HQ", "defocus:3"], "c": ["HQ", "low_light:3"]}
TYPES = {"a": "declarative", "b": "interrogative", "c": "declarative"}


def truth(conditions: Mapping[str, Sequence[str]] = CONDITIONS, **fields: Any) -> GroundTruth:
    """Tubes of ten frames."""
    tubes = [
        {"item_id": item, "start": 0, "stop": 10, "boxes": [BOX] * 10, "conditions": names}
        | ({"sentence_type": TYPES[item]} if item in TYPES else {})
        | fields
        for item, names in conditions.items()
    ]
    header = {"format": "stvg-ground-truth", "version": 1, "dataset": "Tiny", "split": "test"}
    return parse_ground_truth(header | {"tubes": tubes})


def answer(
    hits: Mapping[tuple[str, str], int], method: str = "Mine", verdicts: Sequence[float] | None = None
) -> Predictions:
    """Predictions that cover ``hits`` of ten frames perfectly: tIoU = vIoU = hits / 10."""
    tubes = [
        {"item_id": item, "condition": condition, "start": 0, "stop": count, "boxes": [BOX] * count}
        for (item, condition), count in hits.items()
    ]
    for tube, verdict in zip(tubes, verdicts or (), strict=verdicts is not None):
        tube["verdict"] = verdict
    return parse_predictions({"format": "stvg-predictions", "version": 1, "method": method, "tubes": tubes})


HITS = {
    ("a", "HQ"): 10,
    ("a", "defocus:1"): 6,
    ("b", "HQ"): 8,
    ("b", "defocus:3"): 2,
    ("c", "HQ"): 3,
    ("c", "low_light:3"): 1,
}
ZERO_SHOT = dict.fromkeys(HITS, 4)


def values(evaluation: Evaluation, metric: str = "m_vIoU", protocol: Any = "half_open") -> dict[str, float]:
    metrics = evaluation.protocols[protocol].metrics
    return {key.removesuffix(f"/{metric}"): value for key, value in metrics.items() if key.endswith(f"/{metric}")}


def test_views_by_hand() -> None:
    found = values(evaluate(answer(HITS), truth()))
    assert {view: value for view, value in found.items() if "/" not in view} == pytest.approx(
        {
            "HQ": 70,
            "LQ": 30,
            "MQ": 50,
            "defocus": 40,
            "low_light": 10,
            "severity-1": 60,
            "severity-3": 15,
            "defocus:1": 60,
            "defocus:3": 20,
            "low_light:3": 10,
            "LQ-mean": 25,
            "LQ-worst": 10,
            "LQ-relative": 100 * 3 / 7,
        }
    )
    assert {view: value for view, value in found.items() if view.endswith("/interrogative")} == pytest.approx(
        {
            "HQ/interrogative": 80,
            "LQ/interrogative": 20,
            "MQ/interrogative": 50,
            "defocus/interrogative": 20,
            "severity-3/interrogative": 20,
            "defocus:3/interrogative": 20,
            "LQ-mean/interrogative": 20,
            "LQ-worst/interrogative": 20,
            "LQ-relative/interrogative": 25,
        }
    )
    assert found["LQ-mean/declarative"] == pytest.approx((60 + 10) / 2)


def test_metrics_by_hand() -> None:
    evaluation = evaluate(answer(HITS), truth())
    for metric, expected in (("m_tIoU", 50), ("m_vIoU", 50), ("vIoU@0.3", 50), ("vIoU@0.5", 50)):
        assert values(evaluation, metric)["MQ"] == pytest.approx(expected)
    assert values(evaluation, "vIoU@0.3")["HQ"] == pytest.approx(200 / 3), "0.3 does not exceed 0.3"
    assert values(evaluation, protocol="cgstvg")["HQ"] == pytest.approx(100 * (9 / 10 + 8 / 9 + 3 / 9) / 3)


def test_mixed_quality_is_one_to_one_however_many_degradations_there_are() -> None:
    conditions = {"a": ["HQ", "defocus:1", "defocus:3", "low_light:3"]}
    hits = {("a", "HQ"): 10} | {("a", name): 2 for name in conditions["a"][1:]}
    found = values(evaluate(answer(hits), truth(conditions)))
    assert (found["HQ"], found["LQ"], found["MQ"]) == pytest.approx((100, 20, 60))


def test_work_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(answer(HITS), truth(sampled_frames=[0, 5]), bootstrap=10)
    monkeypatch.setattr(scoring, "_TUBES_AT_ONCE", 4)
    monkeypatch.setattr(bootstrap, "_REPLICATES_AT_ONCE", 3)
    assert evaluate(answer(HITS), truth(sampled_frames=[0, 5]), bootstrap=10) == whole


def test_a_misspelt_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="missing must be one of error, zero, got 'zeros'"):
        evaluate(answer({}), truth(), missing="zeros")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown must be one of error, ignore, got 'skip'"):
        evaluate(answer({}), truth(), unknown="skip")  # type: ignore[arg-type]


def test_one_quality_alone() -> None:
    assert values(evaluate(answer({("x", "HQ"): 10}), truth({"x": ["HQ"]}))) == {"HQ": 100}
    assert values(evaluate(answer({("x", "LQ"): 5}), truth({"x": ["LQ"]}))) == {"LQ": 50}


def test_baseline_gives_differences_and_was() -> None:
    evaluation = evaluate(answer(HITS), truth(), baseline=answer(ZERO_SHOT, "ZeroShot"), lambda_hq=0.5)
    result = evaluation.protocols["half_open"]
    assert (evaluation.method, evaluation.baseline) == ("Mine", "ZeroShot")
    assert (result.baseline["HQ/m_vIoU"], result.baseline["LQ/m_vIoU"]) == pytest.approx((40, 40))
    assert (result.differences["HQ/m_vIoU"], result.differences["LQ/m_vIoU"]) == pytest.approx((30, -10))
    assert result.metrics["WAS/m_vIoU"] == pytest.approx(-10 + 0.5 * 30)
    assert result.metrics["WAS/declarative/m_vIoU"] == pytest.approx((35 - 40) + 0.5 * (65 - 40))
    itself = evaluate(answer(HITS), truth(), baseline=answer(HITS)).protocols["half_open"]
    assert set(itself.differences.values()) == {0.0} and itself.metrics["WAS/m_vIoU"] == 0


def test_missing_predictions() -> None:
    partial = {key: hits for key, hits in HITS.items() if key[0] != "b"}
    message = r"Mine lacks 2 of the 6 tubes, the first for item 'b' in condition 'HQ'; .* --missing zero"
    with pytest.raises(CoverageError, match=message):
        evaluate(answer(partial), truth())
    evaluation = evaluate(answer(partial), truth(), missing="zero")
    assert (evaluation.coverage.samples, evaluation.coverage.missing) == (6, 2)
    assert values(evaluation)["HQ"] == pytest.approx((100 + 0 + 30) / 3)
    assert values(evaluation, "m_tIoU", "hcstvg")["HQ"] == pytest.approx((100 + 0 + 30) / 3)
    with pytest.raises(CoverageError, match="ZeroShot lacks 2"):
        evaluate(answer(HITS), truth(), baseline=answer(partial, "ZeroShot"))
    assert values(evaluate(answer({}), truth(), missing="zero"))["MQ"] == 0


def test_unknown_predictions() -> None:
    more = HITS | {("a", "defocus:2"): 1, ("z", "HQ"): 1}
    message = r"2 of the 8 tubes of Mine were not asked for, the first for item 'a' in condition 'defocus:2'"
    with pytest.raises(CoverageError, match=message):
        evaluate(answer(more), truth())
    evaluation = evaluate(answer(more), truth(), unknown="ignore")
    assert evaluation.coverage.unknown == 2
    assert values(evaluation) == values(evaluate(answer(HITS), truth()))


def test_frames_without_a_box_are_counted() -> None:
    predictions = answer({("x", "HQ"): 10})
    predictions.tubes.boxes[7:] = np.nan
    evaluation = evaluate(predictions, truth({"x": ["HQ"]}))
    assert evaluation.coverage.frames_without_box == 3
    assert values(evaluation)["HQ"] == pytest.approx(70)
    assert values(evaluation, "m_tIoU")["HQ"] == pytest.approx(100)
    assert values(evaluation, "m_tIoU", "hcstvg")["HQ"] == pytest.approx(70)


def test_protocols_are_chosen_by_what_the_ground_truth_says() -> None:
    plain = evaluate(answer(HITS), truth())
    assert list(plain.protocols) == ["half_open", "cgstvg", "hcstvg"]
    assert plain.left_out == {"tubedetr": "the ground truth does not say which frames are sampled of item 'a'"}
    sampled = evaluate(answer(HITS), truth(sampled_frames=[0, 5]))
    assert list(sampled.protocols)[-1] == "tubedetr" and not sampled.left_out
    assert values(sampled, protocol="tubedetr")["HQ"] == pytest.approx((100 + 100 + 50) / 3)
    assert list(evaluate(answer(HITS), truth(), protocols=["hcstvg", "hcstvg"]).protocols) == ["hcstvg"]
    with pytest.raises(ValueError, match="protocol tubedetr cannot be computed: the ground truth does not say"):
        evaluate(answer(HITS), truth(), protocols=["half_open", "tubedetr"])
    with pytest.raises(ValueError, match=r"protocol must be one of half_open, .*, got 'official'"):
        evaluate(answer(HITS), truth(), protocols=["official"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="at least one protocol must be asked for, of half_open, "):
        evaluate(answer(HITS), truth(), protocols=[])


def test_order_of_the_files_does_not_matter() -> None:
    turned = evaluate(answer(dict(reversed(HITS.items()))), truth())
    assert turned == evaluate(answer(HITS), truth())


def many(items: int = 60) -> tuple[GroundTruth, Predictions, Predictions]:
    """Baseline hits vary from item to item; the method finds one frame more of every one."""
    conditions = {str(item): ["HQ", f"defocus:{1 + item % 5}"] for item in range(items)}
    hits = {(item, name): 1 + (7 * int(item) + len(name)) % 9 for item, names in conditions.items() for name in names}
    better = {key: count + 1 for key, count in hits.items()}
    return truth(conditions), answer(better), answer(hits, "ZeroShot")


def test_bootstrap_covers_the_mean_as_theory_has_it() -> None:
    ground_truth, method, baseline = many()
    evaluation = evaluate(method, ground_truth, baseline=baseline, protocols=["half_open"], bootstrap=2000)
    result = evaluation.protocols["half_open"]
    scores = np.array([100 * (1 + 1 + (7 * item + 2) % 9) / 10 for item in range(60)])
    half_width = 1.96 * scores.std() / math.sqrt(60)
    low, high = result.intervals["HQ/m_vIoU"]
    assert (low, high) == pytest.approx((scores.mean() - half_width, scores.mean() + half_width), abs=0.6)
    # One frame more of every item, whichever are drawn: paired, the difference is certain.
    assert result.difference_intervals["MQ/m_vIoU"] == pytest.approx((10, 10))
    assert result.intervals["WAS/m_vIoU"] == pytest.approx((20, 20))
    assert result.intervals.keys() == result.metrics.keys()
    assert result.difference_intervals.keys() == result.differences.keys()


def test_bootstrap_depends_on_its_seed_alone() -> None:
    ground_truth, method, _ = many()
    runs = [
        evaluate(method, ground_truth, protocols=["half_open"], bootstrap=100, seed=seed).protocols["half_open"]
        for seed in (0, 0, 1)
    ]
    assert runs[0] == runs[1]
    assert runs[0].intervals != runs[2].intervals and runs[0].metrics == runs[2].metrics
    assert evaluate(method, ground_truth).protocols["half_open"].intervals == {}
    with pytest.raises(ValueError, match="bootstrap must be a number of replicates, 0 for none, got -1"):
        evaluate(method, ground_truth, bootstrap=-1)


def test_what_is_undefined_is_null() -> None:
    silent = dict.fromkeys(HITS, 4)
    nowhere = replace(answer(silent), tubes=replace(answer(silent).tubes, boxes=answer(silent).tubes.boxes + 100))
    evaluation = evaluate(nowhere, truth(), bootstrap=10)
    assert math.isnan(values(evaluation)["LQ-relative"])
    content = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    half_open = content["protocols"]["half_open"]
    assert half_open["metrics"]["LQ-relative/m_vIoU"] is None
    assert half_open["intervals"]["LQ-relative/m_vIoU"] == [None, None]
    assert half_open["metrics"]["HQ/m_tIoU"] == pytest.approx(40)
    assert content["coverage"] == {"samples": 6, "missing": 0, "unknown": 0, "frames_without_box": 0}
    assert (content["schema"], content["method"], content["baseline"]) == (1, "Mine", None)


DECOMPOSED, COMPOSED = "cafe\u0301", "caf\u00e9"


def test_an_id_is_found_in_the_other_unicode_form() -> None:
    for here, there in ((DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)):
        evaluation = evaluate(answer({(here, "HQ"): 10}), truth({there: ["HQ"]}))
        assert evaluation.protocols["half_open"].metrics["HQ/m_vIoU"] == 100


def test_two_forms_of_one_id_are_no_two_predictions() -> None:
    with pytest.raises(CoverageError, match=r"2 tubes for item .*different Unicode forms"):
        evaluate(answer({(DECOMPOSED, "HQ"): 10, (COMPOSED, "HQ"): 1}), truth({COMPOSED: ["HQ"]}))


def test_ids_that_differ_in_nothing_but_their_form_stay_two() -> None:
    both = {DECOMPOSED: ["HQ"], COMPOSED: ["HQ"]}
    evaluation = evaluate(answer({(DECOMPOSED, "HQ"): 10, (COMPOSED, "HQ"): 5}), truth(both))
    assert evaluation.protocols["half_open"].metrics["HQ/m_vIoU"] == 75
