from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stvg_nst.report import print_report, report_folders
from stvg_nst.results.conditions import Measurement


def write_run(folder: Path, method: str, points: float, **changes: object) -> Path:
    folder.mkdir(parents=True)
    content: dict[str, object] = {
        "schema": 1,
        "method": method,
        "dataset": "MiniSTVG",
        "split": "test",
        "metrics": {f"{view}/m_vIoU": points for view in ("HQ", "LQ", "MQ")},
        "samples": [{"item_id": "a", "quality": "HQ"}, {"item_id": "a", "quality": "LQ"}],
        "seed": 0,
        "benchmark_seed": 0,
        "trainable_parameters": 5,
        "total_parameters": 10,
        "versions": {},
        "git_commit": None,
        "config_hash": "",
        "wall_seconds": 1.0,
        "skipped": 0,
    }
    path = folder / "results.json"
    path.write_text(json.dumps(content | changes))
    return path


def test_every_run_below_the_folder_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", "LoRA", 42)
    write_run(tmp_path / "deep" / "er", "ZeroShot", 40)
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert text.count("42.00 (+2.00)") == 3 and "+4.00" in text
    assert text.index("ZeroShot") < text.index("LoRA")
    assert "note" not in text and "left out" not in text


def test_what_is_left_out_is_listed_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "good", "ZeroShot", 40)
    cut, missing = tmp_path / "cut.json", tmp_path / "missing.json"
    cut.write_text(good.read_text()[:50])
    print_report([good, cut, missing])
    text = capsys.readouterr().out
    assert "left out 2:" in text
    assert f"{cut}: is not JSON" in text and f"{missing}: cannot be read" in text
    assert "ZeroShot" in text


def test_runs_without_results_are_listed_with_what_they_failed_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "base", "ZeroShot", 40)
    write_run(tmp_path / "tested" / "draw-0", "LoRA", 41)
    for name in ("tested", "failed", "diverged", "interrupted", "fitted"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.yaml").touch()
    (tmp_path / "failed" / "failure.txt").write_text("fit ended with status 1: out of memory\n")
    (tmp_path / "diverged" / "diverged.txt").write_text("fit ended with status 3: the loss is nan\n")
    (tmp_path / "fitted" / "adapter.safetensors").touch()
    (tmp_path / "somebody's").mkdir()
    (tmp_path / "somebody's" / "results.json").write_text('{"accuracy": 1}')
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert "left out 5:" in text and "'schema' must be 1, got no such field" in text
    assert f"{tmp_path / 'failed'}: has no results.json: fit ended with status 1: out of memory" in text
    assert f"{tmp_path / 'diverged'}: has no results.json: fit ended with status 3: the loss is nan" in text
    assert f"{tmp_path / 'interrupted'}: has no results.json: it is not finished" in text
    fitted = f"{tmp_path / 'fitted'}: has no results.json: it is fitted, and not tested"
    assert fitted in text
    assert report_folders([tmp_path / "fitted"]) == 1, "there is no number to show"
    assert fitted in capsys.readouterr().out


def test_runs_that_differ_above_their_folder_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"lora-seed{seed}" / "draw-0", "LoRA", 41 + seed, seed=seed)
    report_folders([tmp_path])
    text = " ".join(capsys.readouterr().out.split())
    assert "(lora-seed0/draw-0)" in text and "(lora-seed1/draw-0)" in text


def test_each_benchmark_has_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", "ZeroShot", 40)
    write_run(tmp_path / "1", "ZeroShot", 40, benchmark_seed=1)
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert "MiniSTVG test, benchmark seed 0" in text and "MiniSTVG test, benchmark seed 1" in text


def test_sentence_types_have_tables_where_there_are_two_and_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = {"HQ/m_vIoU": 40.0, "HQ/declarative/m_vIoU": 40.0}
    write_run(tmp_path / "one" / "run", "ZeroShot", 0, metrics=points)
    report_folders([tmp_path / "one"], by_sentence=True)
    assert "sentences" not in capsys.readouterr().out
    write_run(tmp_path / "two" / "run", "ZeroShot", 0, metrics=points | {"HQ/interrogative/m_vIoU": 30.0})
    report_folders([tmp_path / "two"], tmp_path / "table.md")
    assert "sentences" not in capsys.readouterr().out
    assert "interrogative sentences" in (tmp_path / "table.md").read_text()
    report_folders([tmp_path / "two"], by_sentence=True)
    text = " ".join(capsys.readouterr().out.split())  # a title is folded to the width of its table
    assert "declarative sentences" in text and "interrogative sentences" in text and "30.00" in text


def test_what_a_reader_must_know_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "base", "ZeroShot", 40)
    policies = {
        option: {"policy": "clip", "touched": {"test": {"sentences": 8, "clips": 7, "frames": count}, "val": {}}}
        for option, count in (("on_bad_box", 23), ("on_bad_video", 5))
    }
    write_run(tmp_path / "lora", "LoRA", 42, skipped=3, policies=policies)
    write_run(tmp_path / "dora", "DoRA", 42, samples=[{"item_id": "a", "quality": "HQ"}])
    assert report_folders([tmp_path], tmp_path / "report.md") == 0
    for mark, text in (("note:", capsys.readouterr().out), ("*", (tmp_path / "report.md").read_text())):
        assert f"{mark} {tmp_path / 'lora' / 'results.json'}: 3 samples left out, for bad videos" in text
        assert text.count(" has touched ") == 1
        assert "results.json: on_bad_box clip has touched 8 sentences, 7 clips, 23 frames" in text
        assert f"{mark} {tmp_path / 'dora' / 'results.json'}: 1 samples, not the 2 of" in text


def test_without_a_baseline_the_table_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "lora", "LoRA", 42)
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert "42.00" in text and "note: without differences and WAS: no run of the baseline ZeroShot" in text


def test_markdown_holds_table_and_left_out(tmp_path: Path) -> None:
    write_run(tmp_path / "base", "ZeroShot", 40)
    write_run(tmp_path / "other", "LoRA", 40, schema=7)
    report_folders([tmp_path], tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    assert "| HQ | ZeroShot | 5 | 40.00 |" in text
    assert "Left out:" in text and "field 'schema' must be 1, got 7" in text


def test_a_folder_without_results_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_folders([tmp_path]) == 1
    assert f"no results.json below {tmp_path}" in capsys.readouterr().out
    assert report_folders([tmp_path / "absent"]) == 1
    assert "absent is not a folder" in capsys.readouterr().out
    write_run(tmp_path / "run", "ZeroShot", 40, schema=0)
    assert report_folders([tmp_path]) == 1


def test_the_report_does_not_load_torch() -> None:
    script = (
        "import sys, stvg_nst.report; heavy = {'torch', 'lightning', 'torchmetrics', 'numpy'} & set(sys.modules); "
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def measured(**fields: object) -> dict[str, object]:
    return asdict(replace(Measurement(), **fields))  # type: ignore[arg-type]


def test_other_precisions_have_tables_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("32-true", "bf16-mixed"):
        write_run(tmp_path / name / "zero", "ZeroShot", 40, measurement=measured(precision=name))
    write_run(tmp_path / "tuned", "LoRA", 45, measurement=measured(precision="bf16-mixed"))
    assert report_folders([tmp_path]) == 0
    usual, _, half = " ".join(capsys.readouterr().out.split()).partition("benchmark seed 0, measured in bf16-mixed")
    assert "MiniSTVG test, benchmark seed 0, measured in 32-true" in usual and "LoRA" not in usual
    assert "note: what was measured in bf16-mixed does not compare, and has a table of its own" in usual
    assert "45.00 (+5.00)" in half
    assert "note: what was measured in 32-true does not compare" in half


@pytest.mark.parametrize("said", ["32-true", "bf16-mixed"])
def test_older_files_stand_with_the_others(tmp_path: Path, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = write_run(tmp_path / "zero", "ZeroShot", 40)
    assert report_folders([tmp_path]) == 0
    assert "note" not in capsys.readouterr().out, "nothing to say of what does not say"
    write_run(tmp_path / "tuned", "LoRA", 45, measurement=measured(precision=said))
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert "45.00 (+5.00)" in text
    assert f"note: {old}: older than the record of precision, and shown with what was measured in {said}" in text


def test_older_files_are_taken_as_usual_where_others_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "zero", "ZeroShot", 40)
    for name in ("32-true", "bf16-mixed"):
        write_run(tmp_path / name, "LoRA", 45, measurement=measured(precision=name))
    assert report_folders([tmp_path]) == 0
    usual, _, half = " ".join(capsys.readouterr().out.split()).partition("seed 0, measured in bf16-mixed")
    assert "45.00 (+5.00)" in usual and "without differences" in half


def test_other_devices_are_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "zero", "ZeroShot", 40, measurement=measured())
    write_run(tmp_path / "tuned", "LoRA", 45, measurement=measured(device="cuda", float32_convolutions="tf32"))
    assert report_folders([tmp_path]) == 0
    text = capsys.readouterr().out
    assert "45.00 (+5.00)" in text
    assert "note: measured on cpu and on cuda, convolutions in tf32: for that alone the last digits may differ" in text


def test_folders_may_be_named_from_here_and_from_the_root_and_lie_within_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("near/a", "far/a"):
        write_run(tmp_path / name, "LoRA", 41)
    (tmp_path / "near" / "lost").mkdir()
    (tmp_path / "near" / "lost" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path / "near")
    assert report_folders([Path("a"), tmp_path / "far"]) == 0
    text = capsys.readouterr().out
    assert "LoRA (near/a)" in text and "LoRA (far/a)" in text
    assert report_folders([Path(), Path("lost")]) == 0
    assert "left out 1:" in capsys.readouterr().out
