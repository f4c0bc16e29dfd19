from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.report import report_folders
from stvg_nst.report.severities import separation_section, severity_section
from stvg_nst.results.results_file import ResultsFileError, load_results
from tests.stvg_nst.report.test_folder import write_run


def found(degradation: str | None, v_iou: float, item: str = "a") -> dict[str, Any]:
    quality = "LQ" if degradation else "HQ"
    scores = {"tIoU": 1.0, "vIoU": v_iou, "sentence_type": "declarative"}
    return {"item_id": item, "quality": quality, "degradation": degradation, **scores}


SAMPLES = [
    found(None, 0.8),
    found("defocus:1", 0.7),
    found("defocus:3", 0.3),
    found("low_light:1", 0.6),
    found(None, 0.8, "b"),
    found("defocus:1", 0.5, "b"),
]


def lines(path: Path, metric: str = "m_vIoU") -> dict[str, tuple[str, ...]]:
    section, _ = severity_section([load_results(path)], metric)
    return {row[0].text: tuple(cell.text for cell in row[2:]) for row in section.rows}


def test_by_hand(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", "LoRA", 42, samples=SAMPLES)
    assert lines(path) == {
        "defocus": ("60.00", "30.00", "50.00"),
        "low_light": ("60.00", "-", "60.00"),
        "HQ": ("", "", "80.00"),
        "LQ, all samples": ("", "", "52.50"),
        "mean of kinds": ("", "", "55.00"),
        "worst kind": ("", "", "50.00"),
        "LQ / HQ, %": ("", "", "65.62"),  # 65.625, to even
    }
    assert lines(path, "vIoU@0.5")["defocus"] == ("50.00", "0.00", "33.33")
    with pytest.raises(ValueError, match=r"the metric must be one of m_tIoU, .* got 'mAP'"):
        severity_section([load_results(path)], "mAP")


def test_runs_stand_side_by_side_on_the_terminal_and_in_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", "LoRA", 42, samples=SAMPLES, evaluation_conditions="matrix")
    other = [*SAMPLES[:-1], found("defocus:1", 0.9, "b")]
    write_run(tmp_path / "b", "ZeroShot", 40, samples=other, evaluation_conditions="matrix")
    assert report_folders([tmp_path], tmp_path / "out.md", "m_vIoU") == 0
    shown = capsys.readouterr().out
    assert "MiniSTVG test, benchmark seed 0, shown in matrix, m_vIoU by degradation" in shown
    assert "note: a kind at one severity is 1 to 2 samples of" in shown
    markdown = (tmp_path / "out.md").read_text()
    assert "| severity | Method | 1 | 3 | all |\n|---|---|---:|---:|---:|\n" in markdown
    assert "| defocus | ZeroShot | 80.00 | 30.00 | 63.33 |\n| defocus | LoRA | 60.00 | 30.00 | 50.00 |\n" in markdown
    assert report_folders([tmp_path]) == 0
    assert "by degradation" not in capsys.readouterr().out


def test_clean_runs_and_foreign_samples_are_told(tmp_path: Path) -> None:
    clean = load_results(write_run(tmp_path / "a", "LoRA", 42, samples=SAMPLES[:1]))
    assert severity_section([clean], "m_vIoU")[1] == "no sample was degraded"
    foreign = {name: value for name, value in SAMPLES[0].items() if name != "tIoU"}
    with pytest.raises(ResultsFileError, match=r"'samples\[0\].tIoU' is missing"):
        severity_section([replace(clean, samples=(foreign,))], "m_vIoU")


def test_routers_stand_side_by_side_by_what_they_tell_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [sample | {"verdict": v} for sample, v in zip(SAMPLES, (0.2, 0.4, 0.9, 0.1, 0.5, 0.6), strict=True)]
    write_run(tmp_path / "a", "NullSpaceTuning", 42, samples=said, evaluation_conditions="matrix")
    other = [sample | {"verdict": None} for sample in SAMPLES]
    write_run(tmp_path / "b", "ZeroShot", 40, samples=other, evaluation_conditions="matrix")
    assert report_folders([tmp_path], tmp_path / "out.md", "m_vIoU") == 0
    markdown = (tmp_path / "out.md").read_text()
    assert "MiniSTVG test, benchmark seed 0, shown in matrix, AUROC of the router by degradation" in markdown
    assert "| defocus | NullSpaceTuning | 0.750 | 1.000 | 0.833 |\n" in markdown
    assert "| low_light | NullSpaceTuning | 0.000 | - | 0.000 |\n" in markdown
    assert "| LQ, all samples | NullSpaceTuning | 0.500 | 1.000 | 0.625 |\n" in markdown
    assert separation_section([load_results(tmp_path / "b" / "results.json")]) is None
