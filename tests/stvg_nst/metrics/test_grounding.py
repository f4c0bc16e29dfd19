"""Tests of GroundingMetrics; run as a script, this file is one rank of the distributed test."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stvg_nst.metrics import GroundingMetrics
from stvg_nst.types import ClipInfo, Degradation, Quality, Tube
from tests.ranks import run_ranks

torch.set_num_threads(1)

BOX = torch.tensor([0.0, 0.0, 10.0, 10.0])
ZERO_SHOT = {f"{q}/{m}": 40.0 for q in ("HQ", "LQ") for m in ("m_tIoU", "m_vIoU", "vIoU@0.3", "vIoU@0.5")}
Sample = tuple[Tube, ClipInfo]


def tube(start: int, stop: int) -> Tube:
    return Tube(start, stop, BOX.expand(stop - start, 4))


def sample(item_id: str, hits: int, quality: Quality = Quality.HQ, sentence_type: str = "declarative") -> Sample:
    """A prediction that covers ``hits`` of ten frames perfectly: tIoU = vIoU = hits / 10."""
    info = ClipInfo(
        item_id=item_id,
        query="a red ball",
        sentence_type=sentence_type,
        quality=quality,
        degradation=Degradation("defocus", 2, 0) if quality is Quality.LQ else None,
        frame_ids=(0, 9),
        target=tube(0, 10),
        native_size=(100, 100),
        native_length=10,
        fps=25.0,
        video="ball.mp4",
    )
    return tube(0, hits), info


def feed(metric: GroundingMetrics, *batches: Sequence[Sample]) -> GroundingMetrics:
    for batch in batches:
        metric.update([pred for pred, _ in batch], [clip for _, clip in batch])
    return metric


def numbers(metric: GroundingMetrics) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


SEVEN = [
    sample("a", 10),
    sample("a", 3, Quality.LQ),
    sample("b", 8, sentence_type="interrogative"),
    sample("b", 5, Quality.LQ, "interrogative"),
    sample("name with a \u2028 line \n break", 4),
    sample("c", 1, Quality.LQ),
    sample("d", 7),
]


def test_by_hand() -> None:
    metrics = numbers(feed(GroundingMetrics(), SEVEN[:4]))
    assert {name: metrics[name] for name in metrics if name.count("/") == 1} == pytest.approx(
        {
            "HQ/m_tIoU": 90,
            "HQ/m_vIoU": 90,
            "HQ/vIoU@0.3": 100,
            "HQ/vIoU@0.5": 100,
            "LQ/m_tIoU": 40,
            "LQ/m_vIoU": 40,
            "LQ/vIoU@0.3": 50,  # 0.3 does not exceed 0.3
            "LQ/vIoU@0.5": 0,
            "MQ/m_tIoU": 65,
            "MQ/m_vIoU": 65,
            "MQ/vIoU@0.3": 75,
            "MQ/vIoU@0.5": 50,
        }
    )
    assert metrics["HQ/interrogative/m_vIoU"] == pytest.approx(80)
    assert metrics["MQ/declarative/m_vIoU"] == pytest.approx(65)


def test_an_item_in_many_degradations_counts_once_in_each_and_qualities_one_to_one() -> None:
    pred, clip = sample("a", 6, Quality.LQ)
    others = [
        (tube(0, hits), replace(clip, degradation=Degradation("low_light", severity, 0)))
        for severity, hits in ((1, 4), (2, 2))
    ]
    metric = feed(GroundingMetrics(), [sample("a", 10), (pred, clip), *others])
    metrics = numbers(metric)
    assert (metrics["HQ/m_vIoU"], metrics["LQ/m_vIoU"]) == pytest.approx((100, 40))
    assert metrics["MQ/m_vIoU"] == pytest.approx(70), "not the mean of four samples, which is 55"
    assert metrics["MQ/vIoU@0.3"] == pytest.approx((100 + 200 / 3) / 2)
    assert [found["degradation"] for found in metric.samples()] == [None, "defocus:2", "low_light:1", "low_light:2"]


def test_a_view_without_samples_is_left_out() -> None:
    names = set(numbers(feed(GroundingMetrics(thresholds=[0.7]), SEVEN[:1])))
    metrics = {"m_tIoU", "m_vIoU", "vIoU@0.7"}
    assert names == {f"{view}/{infix}{m}" for view in ("HQ", "MQ") for infix in ("", "declarative/") for m in metrics}


def test_was_by_hand() -> None:
    metrics = numbers(feed(GroundingMetrics(baseline=ZERO_SHOT), [SEVEN[0]]))
    assert not any(name.startswith("WAS/") for name in metrics)  # nothing was evaluated on LQ
    baseline = ZERO_SHOT | {
        f"{q}/declarative/{name[3:]}": v + 10 for name, v in ZERO_SHOT.items() for q in ("HQ", "LQ")
    }
    metrics = numbers(feed(GroundingMetrics(baseline=baseline), SEVEN[:2]))
    assert metrics["WAS/m_tIoU"] == pytest.approx((30 - 40) + (100 - 40))
    assert metrics["WAS/declarative/m_tIoU"] == pytest.approx((30 - 50) + (100 - 50))


def test_an_incomplete_baseline_is_refused_before_the_evaluation() -> None:
    incomplete = {name: value for name, value in ZERO_SHOT.items() if name != "LQ/vIoU@0.5"}
    with pytest.raises(ValueError, match=r"needs LQ/vIoU@0\.5 of the zero-shot baseline"):
        GroundingMetrics(baseline=incomplete)
    with pytest.raises(ValueError, match="needs LQ/declarative/m_tIoU"):
        feed(GroundingMetrics(baseline=ZERO_SHOT), SEVEN[:2]).compute()


def test_repeated_samples_count_once_and_contradictions_raise() -> None:
    once, twice = feed(GroundingMetrics(), SEVEN), feed(GroundingMetrics(), SEVEN[:5], SEVEN[3:])
    assert numbers(once) == numbers(twice)
    assert once.samples() == twice.samples()
    contradictory = feed(GroundingMetrics(), SEVEN, [sample("d", 6)])
    with pytest.raises(ValueError, match=r"'d' \(HQ\) was scored twice .* tIoU 0\.700000 and 0\.600000"):
        contradictory.compute()


def test_samples_are_sorted_and_complete() -> None:
    results = feed(GroundingMetrics(), SEVEN).samples()
    keys = [(result["item_id"], result["quality"]) for result in results]
    assert keys == sorted((clip.item_id, clip.quality.name) for _, clip in SEVEN)
    assert json.loads(json.dumps(results[1])) == {
        "item_id": "a",
        "quality": "LQ",
        "sentence_type": "declarative",
        "degradation": "defocus:2",
        "tIoU": 0.3,
        "vIoU": 0.3,
        "pred_start": 0,
        "pred_stop": 3,
        "verdict": None,
    }
    assert results[0]["degradation"] is None


def test_a_sample_says_its_clip_where_its_name_does_not() -> None:
    other = [(tube, replace(clip, item_id="z", video="other.mp4")) for tube, clip in [sample("a", 3)]]
    results = feed(GroundingMetrics(), [sample("a", 3), sample("b", 3), *other]).samples()
    assert [(result["item_id"], result.get("clip")) for result in results] == [("a", None), ("b", "a"), ("z", None)]
    assert not any("video" in result for result in results)


def test_reset_forgets() -> None:
    metric = feed(GroundingMetrics(), SEVEN)
    metric.reset()
    assert metric.samples() == []
    assert numbers(feed(metric, [sample("d", 1)]))["HQ/m_tIoU"] == pytest.approx(10)


def test_forward_gives_the_batch_and_keeps_the_rest() -> None:
    metric = feed(GroundingMetrics(), SEVEN[:1])
    pred, info = SEVEN[6]
    assert metric([pred], [info])["HQ/m_tIoU"].item() == pytest.approx(70)
    assert numbers(metric)["HQ/m_tIoU"] == pytest.approx(85)


def test_what_cannot_be_scored_raises() -> None:
    pred, info = SEVEN[0]
    with pytest.raises(ValueError, match="got 2 tubes and 1 clips"):
        GroundingMetrics().update([pred, pred], [info])
    with pytest.raises(ValueError, match="boxes of clip 'a' are not finite"):
        GroundingMetrics().update([Tube(0, 10, torch.full((10, 4), torch.nan))], [info])
    with pytest.raises(ValueError, match=r"\[0, 1\), got \[50\]"):
        GroundingMetrics(thresholds=[0.3, 50])


def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    run_ranks(__file__, tmp_path)
    alone = feed(GroundingMetrics(), SEVEN)
    for rank in range(2):
        answer = json.loads((tmp_path / f"{rank}.json").read_text())
        assert answer["metrics"] == pytest.approx(numbers(alone), abs=1e-6)
        assert answer["samples"] == alone.samples()
        assert answer["samples_by_one_rank"] == alone.samples()
        assert answer["shard_after_compute"] == 4
        assert "'d' (HQ) was scored twice" in answer["contradiction"]


def run_rank(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    # Seven samples on two ranks: as a distributed sampler does, the second shard repeats one of the first.
    shard = [SEVEN[0::2], [*SEVEN[1::2], SEVEN[0]]][rank]
    metric = feed(GroundingMetrics(), shard[:3], shard[3:])
    idle = GroundingMetrics() if rank else feed(GroundingMetrics(), SEVEN)
    contradictory = feed(GroundingMetrics(), [sample("d", 7 - rank)])
    answer = {"metrics": numbers(metric), "samples": metric.samples(), "samples_by_one_rank": idle.samples()}
    answer["shard_after_compute"] = sum(bytes(record.tolist()).count(b"\n") for record in metric.records)
    try:
        contradictory.compute()
    except ValueError as error:
        answer["contradiction"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(answer))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
