from __future__ import annotations

from collections import Counter

import pytest

from datamodules.quality import MixedQualityPlan
from stvg_nst.types import Quality

CLIPS = [f"clip-{i // 2}" for i in range(10)]


def test_an_epoch_shows_every_record_once_half_of_them_low_quality_alternating() -> None:
    draws = MixedQualityPlan(0).training(CLIPS, seed=0, epoch=0)
    assert sorted(draw.index for draw in draws) == list(range(10))
    assert [draw.quality for draw in draws] == [Quality.HQ, Quality.LQ] * 5


def test_two_epochs_show_every_record_in_both_qualities() -> None:
    plan = MixedQualityPlan(0)
    seen = {(d.index, d.quality) for epoch in (4, 5) for d in plan.training(CLIPS, seed=0, epoch=epoch)}
    assert len(seen) == 20


def test_an_odd_number_of_records_is_split_as_evenly_as_it_can_be() -> None:
    qualities = Counter(d.quality for d in MixedQualityPlan(0).training(CLIPS[:7], seed=0, epoch=0))
    assert sorted(qualities.values()) == [3, 4]


def test_training_depends_on_seed_and_epoch_only() -> None:
    plan = MixedQualityPlan(0)
    assert plan.training(CLIPS, seed=1, epoch=2) == plan.training(CLIPS, seed=1, epoch=2)
    assert plan.training(CLIPS, seed=1, epoch=2) != plan.training(CLIPS, seed=2, epoch=2)
    assert plan.training(CLIPS, seed=1, epoch=2) != plan.training(CLIPS, seed=1, epoch=4)


def test_fixed_variants_are_the_only_degradations_drawn() -> None:
    plan = MixedQualityPlan(0, variants=2)
    allowed = {plan.variant(clip, v) for clip in CLIPS for v in range(2)}
    drawn = {d.degradation for epoch in range(20) for d in plan.training(CLIPS, seed=0, epoch=epoch) if d.degradation}
    assert drawn == allowed


def test_high_quality_training_has_no_degradation() -> None:
    draws = MixedQualityPlan(0, mixed=False).training(CLIPS, seed=0, epoch=0)
    assert sorted(draw.index for draw in draws) == list(range(10))
    assert not any(draw.degradation for draw in draws)


def test_evaluation_shows_both_qualities_and_the_benchmark_seed_alone_decides_how() -> None:
    draws = MixedQualityPlan(3).evaluation(CLIPS)
    assert [(d.index, d.quality) for d in draws] == [(i, q) for i in range(10) for q in Quality]
    assert draws == MixedQualityPlan(3).evaluation(CLIPS)
    assert draws != MixedQualityPlan(4).evaluation(CLIPS)
    # Two sentences about one clip see the same pixels.
    assert draws[1].degradation == draws[3].degradation


def test_processes_share_the_evaluation_without_repetition() -> None:
    plan = MixedQualityPlan(0)
    shares = [plan.evaluation(CLIPS, rank=rank, world_size=4) for rank in range(4)]
    assert sorted((d.index, d.quality) for share in shares for d in share) == [
        (i, q) for i in range(10) for q in Quality
    ]
    assert all({d.quality for d in share} == set(Quality) for share in shares)


def test_kernels_are_no_part_of_the_draw() -> None:
    relative, absolute = (MixedQualityPlan(0, variants=2, kernels=kernels) for kernels in ("relative", "absolute"))
    for a, b in (
        (relative.evaluation_degradation("clip"), absolute.evaluation_degradation("clip")),
        (relative.variant("clip", 1), absolute.variant("clip", 1)),
        *zip(
            *((d.degradation for d in p.training(CLIPS, seed=0, epoch=0)[1::2]) for p in (relative, absolute)),
            strict=True,
        ),
    ):
        assert (a.kind, a.severity, a.seed) == (b.kind, b.severity, b.seed)
        assert (a.kernels, b.kernels) == ("relative", "absolute")


def test_no_variants_are_refused() -> None:
    with pytest.raises(ValueError, match=r"variants must be at least 1.*got 0"):
        MixedQualityPlan(0, variants=0)
