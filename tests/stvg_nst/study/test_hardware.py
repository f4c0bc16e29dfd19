"""An overlay of hardware says how much is computed at once, and changes no result."""

from __future__ import annotations

from pathlib import Path

import pytest

from stvg_nst.study import StudyError, read_studies
from stvg_nst.study.hardware import refuse_other_results

HARDWARE = Path("experiments/hardware")
CARD = HARDWARE / "h100_80gb.yaml"


def test_a_card_fits_a_study_of_its_precision_and_step() -> None:
    (peers,) = read_studies(Path("experiments/paper/vidstg/peers.yaml"))
    refuse_other_results(peers.baseline, [CARD, HARDWARE / "ddp.yaml"])


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
        refuse_other_results(study.baseline, [overlay])
