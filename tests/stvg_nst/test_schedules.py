from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from stvg_nst.schedules import CGSTVGSchedule, CosineSchedule, Schedule, TubeDETRSchedule

RATES = {
    "hcstvg": {"": 3e-4, "visual.*": 2e-5, "text.*": 5e-5, "time_decoder.*": 1e-4},
    "vidstg": {"": 3e-4, "visual.*": 1e-5, "text.*": 5e-5, "time_decoder.*": 1e-4},
}


def official(name: str) -> CGSTVGSchedule:
    if name.startswith("vidstg"):
        return CGSTVGSchedule(10, (8, 10), warm_up_all=True)
    return CGSTVGSchedule(90, (50, 90), linear=("text.*", "time_decoder.*"))


@pytest.mark.parametrize(
    "name", ["hcstvg_N4500_gpus8", "hcstvg2_N10131_gpus8", "hcstvg_N40_gpus1", "vidstg_N80684_gpus8"]
)
def test_official_rates_of_every_group(shared: Path, name: str) -> None:
    golden = json.loads((shared / "cgstvg" / "golden" / "16_lr_schedule.json").read_text())[name]
    rates = RATES["vidstg" if name.startswith("vidstg") else "hcstvg"]
    for step, *expected in golden["rows_step_rest_vis_text_temp"]:
        ours = [rate * official(name).factor(group, step, golden["max_iter"]) for group, rate in rates.items()]
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-18), step


def test_the_first_official_step_is_not_warmed_up() -> None:
    assert official("hcstvg").factor("text.*", 0, 3600) == official("vidstg").factor("", 0, 3600) == 1


@pytest.mark.parametrize("training", [0, 1, 2])
def test_rates_of_tubedetr(shared: Path, training: int) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / "14_schedules.json").read_text())["schedules"][training]
    schedule = TubeDETRSchedule(golden["epochs"], drop_every=golden["drop_epoch"], linear=["text.*"])
    for step, expected in golden["used_by_step"].items():
        factors = [schedule.factor(group, int(step), golden["total_steps"]) for group in ("", "visual.*", "text.*")]
        ours = [rate * factor for rate, factor in zip((5e-5, 1e-5, 5e-5), factors, strict=True)]
        assert ours == pytest.approx(expected, rel=1e-12, abs=1e-18), step


@pytest.mark.parametrize(
    "schedule",
    [
        official("hcstvg"),
        official("vidstg"),
        CosineSchedule(5),
        CosineSchedule(),
        TubeDETRSchedule(20, linear=["text.*"]),
    ],
)
@pytest.mark.parametrize("total_steps", [1, 2, 7, 200])
def test_factors_stay_between_0_and_1(schedule: Schedule, total_steps: int) -> None:
    for group in ("", "text.*"):
        assert all(0 <= schedule.factor(group, step, total_steps) <= 1 for step in range(total_steps + 1))


def test_cosine_by_hand() -> None:
    schedule = CosineSchedule(warmup_steps=2)
    assert [schedule.factor("", step, 4) for step in range(5)] == pytest.approx([0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: CosineSchedule(-5), "warmup_steps of the schedule must be at least 0, got -5"),
        (lambda: CGSTVGSchedule(0, ()), "epochs of the schedule must be at least 1, got 0"),
        (lambda: CGSTVGSchedule(90, (50, 91)), r"drops are epochs of the 90, in \[1, 90\], got \[91\]; change"),
        (lambda: CGSTVGSchedule(90, (0, -1)), r"got \[0, -1\]"),
        (lambda: TubeDETRSchedule(-1), "epochs of the schedule must be at least 1, got -1"),
        (lambda: TubeDETRSchedule(40, drop_every=0), "drop_every of the schedule must be at least 1, got 0"),
    ],
)
def test_impossible_numbers_are_refused(make: Callable[[], Schedule], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_a_rise_that_outlasts_the_training_is_said() -> None:
    with pytest.warns(UserWarning, match="rise over 20 steps, but the training has 5, and so they end at 25% of"):
        CosineSchedule(20).warn_of_length(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CosineSchedule(5).warn_of_length(5)
        official("hcstvg").warn_of_length(5)
