"""The table of gates, from what TensorBoard's own writer wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from docs.gates_table import gates_markdown


def validation(run: Path, *means: float) -> None:
    """A run that validated once for each mean of its gates on HQ clips."""
    with SummaryWriter(str(run)) as writer:
        for step, mean in enumerate(means):
            for tag, value in (("mean_HQ", mean), ("mean_LQ", 0.5), ("auroc", 0.9)):
                writer.add_scalar(f"gates/{tag}", value, step)
        writer.add_scalar("val/loss", 1.0, 0)


def test_seeds_are_one_row(tmp_path: Path) -> None:
    for seed, mean in enumerate((0.1, 0.2, 0.3)):
        validation(tmp_path / f"NST-25-clips-seed{seed}", mean)
    validation(tmp_path / "NST-50-clips-seed0", 0.4)
    table = gates_markdown(tmp_path)
    assert "| | seeds | HQ | LQ | AUROC |" in table
    assert "| NST-25-clips | 3 | 0.20 ± 0.10 | 0.50 ± 0.00 | 0.90 ± 0.00 |" in table
    assert "| NST-50-clips | 1 | 0.40 | 0.50 | 0.90 |" in table


def test_what_is_no_single_validation_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no runs"):
        gates_markdown(tmp_path)
    validation(tmp_path / "NST-seed0", 0.1, 0.2)
    with pytest.raises(ValueError, match=r"NST-seed0: expected one validation .*'gates/mean_HQ': 2"):
        gates_markdown(tmp_path)
    validation(tmp_path / "LoRA-seed0")
    with pytest.raises(ValueError, match=r"LoRA-seed0: expected one validation .*'gates/mean_HQ': 0"):
        gates_markdown(tmp_path)
    (tmp_path / "AdaLoRA").mkdir()
    with pytest.raises(ValueError, match="AdaLoRA: expected runs by the name NAME-seed0"):
        gates_markdown(tmp_path)
