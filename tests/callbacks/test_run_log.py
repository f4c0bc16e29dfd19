from __future__ import annotations

import re

import pytest

from callbacks import RunLog, RunProgress
from stvg_nst.commands.console import console
from tests.callbacks.conftest import Run


def test_a_fit_says_what_it_tunes_and_how_each_epoch_went(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with console():
        run.fit(RunLog(), max_epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("GatedTuner: 1 tuned layers, 40 of 60 parameters trainable")
    assert lines[1].split() == ["decoder.*", "1", "of", "4", "x", "4,", "nullity", "1"]
    assert lines[2] == f"  every layer by itself: {run.folder}/layers.txt"
    for number, line in enumerate(lines[3:5], 1):
        assert re.fullmatch(rf"epoch {number} of 2, loss [\d.]+, val m_vIoU HQ 100\.00, LQ 50\.00, 0:0\d", line)
    assert re.fullmatch(rf"tuned in 0:0\d, in {re.escape(str(run.folder))}", lines[5])
    assert "decoder.0" in (run.folder / "layers.txt").read_text()


def test_the_loss_of_an_epoch_is_that_of_its_batches_however_many_a_step_gathers(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        run.module, "training_step", lambda batch, batch_idx: 0 * run.module.grounder(batch.boxes).sum() + 6
    )
    with console():
        run.fit(RunLog(), accumulate_grad_batches=3)
    assert "epoch 1 of 1, loss 6.000, " in capsys.readouterr().out


def test_a_test_says_what_came_out_in_one_line(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with console():
        run.test(RunLog(), RunProgress(), enable_progress_bar=True)
    out = capsys.readouterr().out
    assert re.fullmatch(r"miniature val, benchmark seed 3: m_vIoU HQ 100\.00, LQ 50\.00, 0:0\d\n", out), (
        "no bar is drawn in a pipe"
    )


def test_a_fit_that_ends_by_its_steps_has_no_last_epoch(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with console():
        run.fit(RunLog(), max_epochs=-1, max_steps=1)
    assert "\nepoch 1, loss " in capsys.readouterr().out


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_terminal_has_one_bar(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the stream for a terminal
    getattr(run, stage)(RunProgress(), enable_progress_bar=True)
    out = capsys.readouterr().out
    assert {"epoch 1 of 1" in out, "validating" in out} == {stage == "fit"}
    assert ("testing" in out) == (stage == "test")
