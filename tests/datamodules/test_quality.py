from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from datamodules.quality import MixedQualityPlan, conditions_name, expand_conditions
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


@pytest.mark.parametrize("variants", [None, 12])
def test_training_never_draws_a_kind_that_is_left_out_and_the_test_shows_it_as_ever(variants: int | None) -> None:
    plan, whole = (MixedQualityPlan(0, variants=variants, left_out=kinds) for kinds in (("low_light", "defocus"), ()))
    plan.require_variants(CLIPS)
    drawn = [d.degradation for epoch in range(20) for d in plan.training(CLIPS, seed=0, epoch=epoch) if d.degradation]
    assert {degradation.kind for degradation in drawn} == {"motion_blur", "resolution"}
    assert {degradation.severity for degradation in drawn} == {1, 2, 3, 4, 5}
    for conditions in (expand_conditions("mixed"), expand_conditions("matrix")):
        assert plan.evaluation(CLIPS, conditions) == whole.evaluation(CLIPS, conditions)
    if variants is not None:
        assert set(drawn) <= {whole.variant(clip, v) for clip in CLIPS for v in range(variants)}


def test_without_a_variant_of_another_kind_there_is_nothing_to_train_on() -> None:
    plan = MixedQualityPlan(0, variants=1, left_out=(MixedQualityPlan(0).variant("clip-4", 0).kind,))
    message = r"none of the 1 degraded variants is left of 1 training clips, the first 'clip-4'; raise .*\.variants"
    with pytest.raises(ValueError, match=message):
        plan.require_variants(["clip-4"] * 2)


@pytest.mark.parametrize("kinds", [("fog",), ("noise",), ("motion_blur", "defocus", "low_light", "resolution")])
def test_kinds_that_cannot_be_left_out_are_refused(kinds: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=rf"left_out_kinds must name some of motion_blur, .* got {kinds[0]}"):
        MixedQualityPlan(0, left_out=kinds)
    with pytest.raises(ValueError, match="and mixed False; correct"):
        MixedQualityPlan(0, mixed=False, left_out=("defocus",))


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


def test_the_matrix_shows_every_kind_at_every_severity_and_the_benchmark_seed_decides_the_rest() -> None:
    conditions = expand_conditions("matrix")
    assert len(conditions) == 1 + 4 * 5 and conditions[0] == "HQ" and conditions_name(conditions) == "matrix"
    draws = MixedQualityPlan(3).evaluation(CLIPS, conditions)
    assert [draw.index for draw in draws] == [index for index in range(10) for _ in conditions]
    assert [str(draw.degradation) for draw in draws[1:21]] == list(conditions[1:]) and draws[0].degradation is None
    assert draws[:21] != MixedQualityPlan(4).evaluation(CLIPS, conditions)[:21]
    assert [draw.degradation for draw in draws[:21]] == [draw.degradation for draw in draws[21:42]], "one clip"
    # Each cell draws anew, and a chosen condition gives the very draw that the matrix has.
    assert len({draw.degradation.seed for draw in draws[:21] if draw.degradation}) == 20
    chosen = MixedQualityPlan(3).evaluation(CLIPS, expand_conditions(["defocus:3"]))
    assert chosen[0] in draws and len(chosen) == 10


@pytest.mark.parametrize(
    ("chosen", "expanded", "name"),
    [
        ("mixed", ("HQ", "LQ"), "mixed"),
        (["HQ", "LQ"], ("HQ", "LQ"), "mixed"),
        (["LQ"], ("LQ",), "LQ"),
        (["HQ", "defocus:3"], ("HQ", "defocus:3"), "HQ+defocus:3"),
        (["low_light"], tuple(f"low_light:{s}" for s in range(1, 6)), "+".join(f"low_light:{s}" for s in range(1, 6))),
        (["HQ", "motion_blur", "defocus", "low_light", "resolution"], expand_conditions("matrix"), "matrix"),
        (["HQ", "compression", "noise", "partial"], expand_conditions("unseen"), "unseen"),
        (["noise:3"], ("noise:3",), "noise:3"),
    ],
)
def test_conditions_are_chosen_by_name(chosen: Any, expanded: tuple[str, ...], name: str) -> None:
    assert expand_conditions(chosen) == expanded and conditions_name(expanded) == name


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "at least one condition"),
        (["HQ", "defocus", "defocus:2"], "each once"),
        (["LQ", "defocus:2"], "LQ is drawn from all degradations and cannot be given beside chosen ones"),
        (["blur"], "kind must be one of motion_blur, .* got 'blur'"),
        (["defocus:6"], "severity must be one of 1, 2, 3, 4, 5, got 6"),
        (["defocus:hard"], "a condition is HQ, LQ, kind or kind:severity such as defocus:3, got 'defocus:hard'"),
        (["hq"], "kind must be one of motion_blur, .*, partial, got 'hq'"),
    ],
)
def test_conditions_that_mean_nothing_are_refused(chosen: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_conditions(chosen)


def test_training_degradations_do_not_depend_on_the_draw_of_the_test() -> None:
    plans = [MixedQualityPlan(draw).training(CLIPS, seed=0, epoch=0) for draw in (0, 1)]
    assert plans[0] == plans[1]
