from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from stvg_nst import __main__ as root
from stvg_nst.evaluation import render_ground_truth, render_predictions

BOX = [0, 0, 10, 10]
ITEMS = {"a": "declarative", "b": "interrogative"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Ground truth of two items in two qualities; `mine` finds 8 and 6 of ten frames, `base` 8 and 5."""
    truth = [
        {"item_id": item, "sentence_type": kind, "conditions": ["HQ", "defocus:3"], "start": 0, "stop": 10}
        | {"boxes": [BOX] * 10}
        for item, kind in ITEMS.items()
    ]
    (tmp_path / "truth.json").write_text(render_ground_truth("Tiny", "test", truth))
    for name, low in (("mine", 6), ("base", 5)):
        tubes = [
            {"item_id": item, "condition": condition, "start": 0, "stop": stop, "boxes": [BOX] * stop}
            for item in ITEMS
            for condition, stop in (("HQ", 8), ("defocus:3", low))
        ]
        (tmp_path / f"{name}.json").write_text(render_predictions(f"<{name}|[red]>", tubes))
    return tmp_path


@pytest.fixture
def command(files: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> int:
        monkeypatch.chdir(files)
        monkeypatch.setattr(sys, "argv", ["stvg_nst", "evaluate", *arguments])
        return root.main()

    return run


def row(text: str, label: str) -> list[str]:
    """The cells of the last line that begins with ``label``."""
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{label} ")]
    return lines[-1].removeprefix(label).split()


def test_tables_on_the_terminal(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("mine.json", "truth.json", "--baseline", "base.json") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("<mine|[red]> on Tiny test: 4 samples of 2 items, against <base|[red]>\n")
    assert row(shown, "half_open, HQ")[:4] == ["80.00", "(+0.00)", "80.00", "(+0.00)"]
    assert row(shown, "cgstvg, LQ")[:2] == ["66.67", "(+11.11)"]
    assert row(shown, "hcstvg, WAS")[:2] == ["+10.00", "+10.00"]
    assert row(shown, "worst kind")[:2] == ["60.00", "(+10.00)"]
    assert row(shown, "severity 3")[:2] == ["60.00", "(+10.00)"]
    assert row(shown, "LQ / HQ, %")[:2] == ["75.00", "(+12.50)"]
    assert row(shown, "LQ, interrogative")[:2] == ["60.00", "(+10.00)"]
    assert "note: without protocol tubedetr: the ground truth does not say" in shown
    assert "m_vIoU by kind and severity, half_open" in shown and row(shown, "severity") == ["3", "all"]
    assert row(shown, "defocus") == row(shown, "all kinds") == ["60.00", "60.00"]


def test_intervals_are_shown_with_their_origin(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("mine.json", "truth.json", "--baseline", "base.json", "--bootstrap", "20", "--seed", "7") == 0
    shown = capsys.readouterr().out
    assert row(shown, "half_open, LQ")[:3] == ["60.00", "[60.0,", "60.0]"]
    assert "differences to <base|[red]>, paired over clips, half_open" in shown
    assert "+10.00 [+10.0, +10.0]" in shown
    assert "95 % percentile intervals of 20 bootstrap replicates over 2 clips with all their sentences, seed 7" in shown


def test_one_protocol_without_baseline(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("mine.json", "truth.json", "--protocol", "cgstvg") == 0
    shown = capsys.readouterr().out
    assert row(shown, "HQ") == ["88.89", "88.89", "100.00", "100.00"]
    assert "half_open" not in shown and "WAS" not in shown and "note" not in shown and "+" not in shown


def test_what_a_reader_must_know_is_said_of_the_one_that_it_holds_for(
    command: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truth = (json.loads((files / name).read_text()) for name in ("mine.json", "truth.json"))
    for condition in (0, 1):
        predictions["tubes"][condition]["boxes"][0] = None
    truth["tubes"][0]["boxes"][9] = [3, 3, 3, 5]
    (files / "mine.json").write_text(json.dumps(predictions))
    (files / "truth.json").write_text(json.dumps(truth))
    assert command("mine.json", "truth.json", "--baseline", "mine.json") == 0
    shown = capsys.readouterr().out
    assert "note: <mine|[red]>: no box, and so no overlap, in 2 predicted frames" in shown
    assert "note: the baseline <mine|[red]>: no box, and so no overlap, in 2 predicted frames" in shown
    assert "note: 1 box of the ground truth has no area, and so no overlap" in shown


def test_files_of_results(command: Any, files: Path) -> None:
    options = ("--json", "out.json", "--markdown", "out.md", "--lambda-hq", "0.5")
    assert command("mine.json", "truth.json", "--baseline", "base.json", *options) == 0
    content = json.loads((files / "out.json").read_text())
    assert content["lambda_hq"] == 0.5
    assert content["protocols"]["half_open"]["metrics"]["defocus:3/m_vIoU"] == pytest.approx(60)
    assert content["protocols"]["half_open"]["differences"]["LQ/m_vIoU"] == pytest.approx(10)
    markdown = (files / "out.md").read_text()
    assert markdown.startswith("## &lt;mine\\|[red]> on Tiny test: 4 samples of 2 items")
    assert "| half_open, LQ | 60.00 (+10.00) | 60.00 (+10.00) | 100.00 (+0.00) | 100.00 (+100.00) |\n" in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {6, 4}
    assert "| severity | 3 | all |\n|---|---:|---:|\n| defocus | 60.00 | 60.00 |\n" in markdown


def test_gaps_stop_the_command_unless_allowed(command: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (files / "mine.json").read_text().splitlines()
    (files / "part.json").write_text("\n".join([lines[0], *lines[2:]]).replace('"item_id": "b"', '"item_id": "z"'))
    assert command("part.json", "truth.json") == 1
    assert "error: 2 of the 3 tubes" in capsys.readouterr().err
    assert command("part.json", "truth.json", "--missing", "zero", "--unknown", "ignore") == 0
    shown = capsys.readouterr().out
    assert "<mine|[red]>: 3 of 4 samples have no prediction and score 0" in shown
    assert "<mine|[red]>: 2 predictions are of samples that were not asked for, and were ignored" in shown


def test_a_faulty_file_is_named_without_a_traceback(
    command: Any, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (files / "mine.json").read_text()
    (files / "mine.json").write_text(text.replace('10]], "', '10]], "').replace("[0, 0, 10, 10]", "[0, 0, 10, NaN]", 1))
    assert command("mine.json", "truth.json") == 1
    expected = "error: mine.json: tubes[0].boxes[0][3]: expected a finite number, got NaN"
    assert capsys.readouterr().err.startswith(expected)


def test_verdicts_are_shown_by_kind_and_severity(command: Any, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((files / "mine.json").read_text())
    for tube, verdict in zip(content["tubes"], (0.1, 0.7, 0.8, 0.9), strict=True):
        tube["verdict"] = verdict
    (files / "mine.json").write_text(json.dumps(content))
    assert command("mine.json", "truth.json", "--json", "out.json") == 0
    shown = capsys.readouterr().out
    assert "AUROC of the verdicts of <mine|[red]> on the quality, by kind and severity" in shown
    assert row(shown, "defocus") == row(shown, "all kinds") == ["0.750", "0.750"]
    assert json.loads((files / "out.json").read_text())["separation"]["defocus:3"] == 0.75
