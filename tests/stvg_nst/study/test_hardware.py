"""An overlay of hardware says how much is computed at once, and changes no result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stvg_nst.study import StudyError, read_studies
from stvg_nst.study.hardware import refuse_other_results

HARDWARE = Path("experiments/hardware")
CARD = HARDWARE / "h100_80gb.yaml"


def test_a_card_fits_a_study_of_its_precision_and_step() -> None:
    (peers,) = read_studies(Path("experiments/paper/vidstg/peers.yaml"))
    refuse_other_results(peers, [CARD, HARDWARE / "ddp.yaml"])


@pytest.mark.parametrize(
    ("part", "overlay", "message"),
    [
        ("vidstg/zero_shot", CARD, r"h100_80gb\.yaml' sets trainer\.precision to 'bf16-mixed', but .* '32-true'"),
        (
            "vidstg/peers",
            HARDWARE / "cpu.yaml",
            r"trainer\.precision to '32-true', but .* 'bf16-mixed'",
        ),
        ("vidstg/peers", Path("experiments/tuner/lora.yaml"), r"model\.tuner\.class_path to 'stvg_nst\.tuning\.LoRA'"),
    ],
)
def test_what_would_change_results_is_refused(part: str, overlay: Path, message: str) -> None:
    (study,) = read_studies(Path(f"experiments/paper/{part}.yaml"))
    with pytest.raises(StudyError, match=message):
        refuse_other_results(study, [overlay])


def test_clips_a_batch_are_part_of_a_recipe_that_does_not_say_how_many_a_step_follows(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("data: {init_args: {batch_size: 8, eval_batch_size: 64}}\n")
    (study,) = read_studies(write())
    with pytest.raises(StudyError, match=r"sets data\.init_args\.batch_size to 8, .* give the study .*effective_batch"):
        refuse_other_results(study, [card])
    (study,) = read_studies(write(set={"data.init_args.effective_batch": 16}))
    refuse_other_results(study, [card])


def test_what_a_point_alone_has_otherwise_is_looked_at(write: Callable[..., Path], tmp_path: Path) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("trainer: {max_epochs: 4}\n")
    (study,) = read_studies(write())
    refuse_other_results(study, [card])
    (study,) = read_studies(write(points={"longer": {"trainer.max_epochs": 8}}))
    with pytest.raises(StudyError, match=r"sets trainer\.max_epochs to 4, but the study has 8"):
        refuse_other_results(study, [card])
