"""`layers` over the shipped miniature: what a user sees of its null spaces."""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path

import pytest

from stvg_nst import __main__ as root

NAMES = ("base", "data/mini", "model/mini", "model/mini_weights")


@pytest.fixture
def layers(monkeypatch: pytest.MonkeyPatch):
    def run(*arguments: str, tuner: str = "zero_shot") -> int:
        overlays = [part for name in (*NAMES, f"tuner/{tuner}") for part in ("--config", f"experiments/{name}.yaml")]
        quiet = ("--trainer.accelerator=cpu", "--trainer.callbacks=[]")
        monkeypatch.setattr(sys, "argv", ["stvg_nst", "layers", *overlays, *quiet, *arguments])
        return root.main()

    return run


def test_the_list_marks_the_selected_layers_and_is_kept(layers, capsys, tmp_path: Path) -> None:
    options = ("--strategy=structural", "--sort=rank_ratio", f"--output={tmp_path / 'layers.json'}")
    assert layers("--targets=[time_decoder, box_decoder, '*_head']", "--exclude=['*.layers.0.*']", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("* marks the 9 that 'structural' selects")
    first = "box_decoder.appearance_confidence.layers.1"
    assert lines[3].split() == ["*", first, "1", "x", "96", "1", "0.010", "95", "exact"]
    marked = [line.split()[1] for line in lines if line.startswith("* ")]
    assert "box_decoder.layers.1.ffn.linear2" in marked and "box_decoder.layers.0.ffn.linear2" not in marked
    written = json.loads((tmp_path / "layers.json").read_text())
    assert {layer["name"] for layer in written["layers"] if layer["selected"]} == set(marked)


def test_without_a_strategy_everything_after_the_encoders_is_listed(layers, capsys) -> None:
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    trainer_logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    trainer_logger.addHandler(handler)
    assert layers() == 0
    trainer_logger.removeHandler(handler)
    assert not heard, "of a trainer that it does not use"
    title, _, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "97 linear layers, rank by rule 'exact'; the null space is exact in 13"
    assert len(rows) == 97 and not any(row.startswith("*") for row in rows)
    heads = {"anchor_head", "start_end_head", "actioness_head"}
    assert {row.split()[0].partition(".")[0] for row in rows} == {"encoder", "time_decoder", "box_decoder", *heads}


@pytest.mark.parametrize(
    ("tuner", "arguments", "message"),
    [
        ("nst", (), "expected a plain model, got a GapRouter at 'reference_point.router'"),
        ("zero_shot", ("--targets=[tiem_decoder]",), "'tiem_decoder' matches no module; .*'time_decoder'"),
        ("zero_shot", ("--output=layers.txt",), r"written as \.json or \.csv, got 'layers.txt'"),
    ],
)
def test_a_mistake_is_one_sentence(layers, capsys, tuner: str, arguments: tuple[str, ...], message: str) -> None:
    assert layers(*arguments, tuner=tuner) == 1
    assert re.search(message, capsys.readouterr().err)
