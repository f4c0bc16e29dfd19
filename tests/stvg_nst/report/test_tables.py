"""The command as a whole: every table and figure out of a folder of runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stvg_nst.drawing import TRUE
from stvg_nst.report import tables
from stvg_nst.report.clips import COLOURS, ShownClip, draw_clip, typical_item
from stvg_nst.report.reading import read_findings
from stvg_nst.report.tables import tables_command
from stvg_nst.study import Study, StudyError, read_studies

Finish = Callable[..., Path]
asked: list[tuple[Any, ...]] = []


def show(config: Any, data: str | None, item_id: str, quality: str) -> ShownClip:
    asked.append((config["data"]["init_args"].get("benchmark_seed", 0), data, item_id, quality))
    frames = np.full((4, 16, 16, 3), 128, dtype=np.uint8)
    return ShownClip(frames, (0, 2, 4, 6), 8, "what jumps ?", None if quality == "HQ" else "defocus:5")


def run(study: Study, runs: Path, *options: str) -> int:
    return tables_command([str(study.path), "--runs", str(runs), "--bootstrap", "20", *options], prog="t", show=show)


def test_all_tables_and_figures(
    study: Study, finish: Finish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, costs = finish(lambda run: run.seed == 1), tmp_path / "cost.json"
    costs.write_text(
        json.dumps({"conditions": "8 clips", "rows": {"decoder / NST": {"trainable": 1500, "step_ratio": 1.5}}})
    )
    assert run(study, runs, "--costs", str(costs)) == 0
    folder = runs / "tables"
    names = {path.name for path in folder.iterdir()}
    texts = {
        f"{name}.{suffix}"
        for name in ("table1", "table2", "fig2", "robustness", "cost")
        for suffix in ("txt", "md", "csv")
    }
    assert names == texts | {"fig2.png", "fig2.svg", "robustness.png", "robustness.svg", "fig3.png", "fig3.txt"}
    svg = (folder / "fig2.svg").read_text()
    for label in (">scope: decoder<", ">scope: whole<", ">NST<", ">zero-shot<", "INCOMPLETE"):
        assert label in svg, label
    assert "| decoder | NST | 1.50 k | - | - | - | 1.50 |" in (folder / "cost.md").read_text()
    assert "8 clips" in (folder / "cost.txt").read_text()
    out = capsys.readouterr().out
    assert "Table II" in out and "written: " in out


def test_figure_3_shows_typical_clips_with_their_answers(
    study: Study, finish: Finish, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = finish()
    asked.clear()
    assert run(study, runs, "--show", "fig3", "--data", "elsewhere") == 0
    # Of four clips whose overlaps rise evenly the middle two are as near to the mean; the first by name is shown.
    assert asked == [(0, "elsewhere", "c1/declarative", quality) for quality in ("HQ", "LQ")]
    picture = np.asarray(Image.open(runs / "tables" / "fig3.png"))
    for colour in (*COLOURS.values(), TRUE):
        assert (picture == colour).all(-1).sum() > 100, colour
    words = (runs / "tables" / "fig3.txt").read_text()
    assert "HQ c1/declarative and LQ c1/declarative (decoder / NST, seed 0)" in words and "typical" in words
    with pytest.raises(StudyError, match=r"Fig\. 3 needs a run of LoRA and one of NST in scope 'whole'"):
        run(study, runs, "--show", "fig3", "--scope", "whole")


def test_a_typical_item_is_near_the_mean_of_every_method(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish())
    runs = {name: findings.methods[index].replicates[0][0] for index, name in enumerate(("LoRA", "NST"))}
    for sample in runs["NST"].results.samples:
        if sample["item_id"].startswith("c1/"):
            sample["vIoU"] = 0.99  # type: ignore[index]
    # 0.59, 0.99, 0.61 and 0.62 under NST: the mean of 0.70 is nearest to the last.
    assert typical_item(runs, "HQ") == "c3/declarative"


def test_the_numbers_beside_a_picture_are_of_the_degradation_that_it_shows(study: Study, finish: Finish) -> None:
    lora, nst, _ = read_findings([study], finish()).methods
    runs = {"Zero-shot": lora.replicates[0][1], "LoRA": lora.replicates[0][0], "NST": nst.replicates[0][0]}
    item = "c1/declarative"
    before = draw_clip(show({"data": {"init_args": {}}}, None, item, "LQ"), "LQ", runs, item)
    for name, run in runs.items():
        other = {**run.results.samples[0], "item_id": item, "quality": "LQ", "degradation": "blocks:1", "vIoU": 0.99}
        runs[name] = replace(run, results=replace(run.results, samples=(other, *run.results.samples)))
    after = draw_clip(show({"data": {"init_args": {}}}, None, item, "LQ"), "LQ", runs, item)
    assert (before == after).all()
    assert typical_item(runs, "LQ") != item, "its mean over both is far from the others'"


def test_costs_must_be_measured_first(study: Study, finish: Finish, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"needs what benchmarks/peers\.py wrote, got 'absent\.json'"):
        run(study, finish(), "--show", "cost", "--costs", "absent.json")
    (tmp_path / "cut.json").write_text("{")
    with pytest.raises(StudyError, match=r"cut\.json: is no JSON"):
        run(study, finish(), "--show", "cost", "--costs", str(tmp_path / "cut.json"))


def test_what_can_be_made_is_made_before_what_cannot_is_told(study: Study, finish: Finish, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"not made: cost: the table of costs needs .*absent\.json'"):
        run(study, finish(), "--show", "cost", "table1", "--costs", "absent.json", "--output", str(tmp_path / "made"))
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["table1.csv", "table1.md", "table1.txt"]


def test_without_a_baseline_there_are_costs_alone(study: Study, tmp_path: Path) -> None:
    costs, runs = tmp_path / "cost.json", tmp_path / "empty"
    costs.write_text(json.dumps({"conditions": "8 clips", "rows": {"decoder / NST": {"trainable": 1600}}}))
    assert run(study, runs, "--show", "cost", "--costs", str(costs)) == 0
    assert "| decoder | NST | 1.60 k |" in (runs / "tables" / "cost.md").read_text()
    (runs / "tables" / "table1.md").write_text("of runs that lie elsewhere now")
    with pytest.raises(
        StudyError, match=r"nothing to compare with: no baseline has results below '.*empty'; INCOMPLETE"
    ):
        run(study, runs, "--show", "cost", "table1", "--costs", str(costs))
    assert (runs / "tables" / "table1.md").exists()


def test_a_quick_study_says_so_in_all_that_is_made(study: Study, finish: Finish, tmp_path: Path) -> None:
    path, costs = tmp_path / "quick.yaml", tmp_path / "cost.json"
    path.write_text(study.path.read_text() + "quick: {seeds: [0]}\n")
    costs.write_text(json.dumps({"conditions": "8 clips", "rows": {"decoder / NST": {"trainable": 1500}}}))
    short = read_studies(path, quick=True)[0]
    runs = finish(of=short)
    runs.rename(tmp_path / "runs-quick")
    assert run(short, runs, "--quick", "--costs", str(costs)) == 0
    folder = tmp_path / "runs-quick" / "tables"
    texts = [path for path in folder.iterdir() if path.suffix != ".png"]
    assert len(texts) == 18
    for text in texts:
        assert "QUICK: 1 seed" in text.read_text(), text.name


def test_costs_of_other_settings_are_refused(study: Study, finish: Finish, tmp_path: Path) -> None:
    costs = tmp_path / "cost.json"
    costs.write_text(json.dumps({"conditions": "8 clips", "rows": {"decoder / NST": {"trainable": 1600}}}))
    with pytest.raises(StudyError, match="was timed with 1600 trainable parameters, but its runs have 1500"):
        run(study, finish(), "--show", "cost", "--costs", str(costs))


def test_what_cannot_be_made_any_more_does_not_stay(study: Study, finish: Finish) -> None:
    runs = finish()
    assert run(study, runs, "--show", "fig3") == 0
    (runs / "decoder-NST-seed0" / "draw-0" / "predictions.json").unlink()
    with pytest.raises(StudyError, match=r"not made: fig3: .*predictions\.json"):
        run(study, runs, "--show", "fig3", "table2")
    assert sorted(path.name for path in (runs / "tables").iterdir()) == ["table2.csv", "table2.md", "table2.txt"]


def test_a_table_stands_without_its_picture(
    study: Study, finish: Finish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no such film")  # as VideoDecodeError is one

    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "fig2.svg").write_text("of other results")
    monkeypatch.setattr(tables, "draw_figure2", fail)
    monkeypatch.setattr(tables, "draw_figure3", fail)
    with pytest.raises(StudyError, match="not made: fig2: no such film; fig3: no such film"):
        run(study, finish(), "--show", "fig2", "fig3", "table1", "--output", str(folder))
    assert {path.name for path in folder.iterdir()} == {
        f"{name}.{suffix}" for name in ("fig2", "table1") for suffix in ("txt", "md", "csv")
    }
