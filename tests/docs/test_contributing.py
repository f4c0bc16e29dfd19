"""The examples of CONTRIBUTING.md are complete: they run, and do what the page says."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch

from stvg_nst.prediction.network import Network
from stvg_nst.report.sheet import sheet_markdown
from stvg_nst.tuning import save_adapter

PAGE = Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    """What all code blocks of the page define."""
    # Dataclasses look their module up by name.
    names: dict[str, Any] = {"__name__": __name__}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_tuner_trains_a_layer_of_the_grounder(built: dict[str, Any]) -> None:
    torch.manual_seed(0)
    grounder, tuner = built["MeanGrounder"](), built["BiasTuning"](["head"])
    frames, mask, queries = torch.rand(2, 3, 3, 8, 8), torch.ones(2, 3, dtype=torch.bool), ["a star", "who spins"]
    before = grounder(frames, mask, queries).boxes
    report = tuner.inject(grounder)
    assert (report.method, report.trainable, report.layers[0].name) == ("BiasTuning", 8, "head")
    assert torch.equal(grounder(frames, mask, queries).boxes, before)
    grounder(frames, mask, queries).boxes.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in tuner.trainable_parameters(grounder))


def test_the_tuner_s_adapter_answers_anyone_s_film(
    built: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "BiasTuning", built["BiasTuning"], raising=False)
    grounder, tuner = built["MeanGrounder"](), built["BiasTuning"](["h*d"])
    frozen = Network(copy.deepcopy(grounder).eval(), None, "single_pass", torch.float32)
    tuner.inject(grounder)
    save_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
    assert frozen.adapted(tmp_path / "adapter.safetensors").method == "BiasTuning"


def test_the_callback_leaves_its_file_and_nothing_where_it_cannot(
    built: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = SimpleNamespace(is_global_zero=True, fast_dev_run=False, default_root_dir=tmp_path / "run", global_step=7)
    built["StepCounter"]().on_fit_end(trainer, lightning.LightningModule())
    assert (tmp_path / "run" / "steps.txt").read_text() == "7\n"
    (tmp_path / "file").touch()
    trainer.default_root_dir = tmp_path / "file"
    built["StepCounter"]().on_fit_end(trainer, lightning.LightningModule())
    assert "left out the number of steps" in caplog.text


def test_the_table_has_a_form(built: dict[str, Any]) -> None:
    assert "| runs/a | 20 |" in sheet_markdown(built["steps_sheet"]({"runs/a": 20, "runs/b": 10})).replace("**", "")
