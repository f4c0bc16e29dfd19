from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from stvg_nst import evaluation
from stvg_nst.commands.evaluate import evaluate


def closed_pipe(*arguments: Any, **options: Any) -> Any:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_numbers_are_written_before_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tube = {"item_id": "a", "start": 0, "stop": 1, "boxes": [[0, 0, 8, 8]]}
    truth, answers = tmp_path / "ground_truth.json", tmp_path / "predictions.json"
    true = {**tube, "sentence_type": "declarative", "conditions": ["HQ"]}
    truth.write_text(evaluation.render_ground_truth("D", "test", [true]))
    answers.write_text(evaluation.render_predictions("M", [{**tube, "condition": "HQ"}]))
    monkeypatch.setattr("stvg_nst.commands.evaluate.print_sheet", closed_pipe)
    numbers, table = tmp_path / "numbers.json", tmp_path / "table.md"
    with pytest.raises(BrokenPipeError):
        evaluate([str(answers), str(truth), "--json", str(numbers), "--markdown", str(table)], "evaluate")
    assert json.loads(numbers.read_text()) and table.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--lambda-hq", "2"], "there is none without --baseline"), (["--seed", "1"], "give --bootstrap N too")],
)
def test_an_option_that_would_change_nothing_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        evaluate(["predictions.json", "ground_truth.json", *words], "evaluate")
    assert message in capsys.readouterr().err
