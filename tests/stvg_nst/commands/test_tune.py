"""`tune`: from a folder of own clips to an adapter that answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from datamodules import STVGDataModule
from stvg_nst import __main__ as root_module
from stvg_nst import load
from stvg_nst.commands import tune as tune_module
from stvg_nst.configuration import read_yaml
from stvg_nst.prediction.loading import find_source
from stvg_nst.prediction.viewing import viewing_of
from stvg_nst.results.results_file import load_results
from tests.datamodules.published import own_line, write_clip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = [own_line(f"cam/{index}.mp4") for index in range(6)]
    for seed, line in enumerate(lines):
        write_clip(tmp_path / "own" / line["video"], size=(64, 96), seed=seed)
    write_lines(tmp_path / "own", *lines)
    return tmp_path / "own"


def write_lines(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.fixture
def stvg(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stvg_nst", *map(str, arguments)])
        return root_module.main()

    return run


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """What would be run."""
    asked: list[Sequence[str]] = []
    monkeypatch.setattr(tune_module, "_run", lambda arguments: asked.append(arguments) or 0)
    return asked


def test_clips_are_shown_as_the_model_is_used_to(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], commands: list[Sequence[str]]
) -> None:
    run = tmp_path / "run"
    overlay = tmp_path / "slow.yaml"
    overlay.write_text("model: {optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.5}}}")
    assert stvg("tune", folder, "--run", run, "--epochs", "3", "--config", overlay, "--features", run / "f") == 0
    assert [words[0] for words in commands] == ["data", "cache", "test", "cache", "fit", "test"]
    frozen, tuned = read_yaml(run / "zero-shot" / "point.yaml"), read_yaml(run / "tuned" / "point.yaml")
    for config in (frozen, tuned):
        data = config["data"]["init_args"]
        assert (data["num_frames"], data["frame_rate"], data["longest_clip"], data["resolution"]) == (
            16,
            None,
            4.0,
            128,
        )
        assert config["model"]["optimizer"]["init_args"]["lr"] == 0.5 and data["variants"] == 2
    assert frozen["model"]["tuner"]["class_path"].endswith("ZeroShot")
    assert tuned["model"]["tuner"]["class_path"].endswith("NullSpaceTuning") and tuned["trainer"]["max_epochs"] == 3
    assert "annotated" not in tuned["model"]
    baseline = commands[-1][commands[-1].index("--model.baseline") + 1]
    assert baseline == str(run / "zero-shot" / "results.json")


def test_training_clips_without_a_tube_are_learned_from_by_the_twin_alone(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], commands: list[Sequence[str]]
) -> None:
    splits = "test", "val", *["train"] * 4
    lines = [own_line(f"cam/{index}.mp4", split=split) for index, split in enumerate(splits)]
    lines.append({"video": "cam/2.mp4", "sentence": "who waves?", "split": "train"})
    write_lines(folder, *lines)
    assert stvg("tune", folder, "--run", tmp_path / "run", "--epochs", "1") == 0
    configs = [read_yaml(tmp_path / "run" / name / "point.yaml")["model"] for name in ("zero-shot", "tuned")]
    assert [config.get("annotated", True) for config in configs] == [True, False]


def test_without_any_tube_it_is_tuned_and_not_measured(
    folder: Path,
    tmp_path: Path,
    stvg: Callable[..., int],
    commands: list[Sequence[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_lines(folder, *({"video": f"cam/{index}.mp4", "sentence": "who waves?"} for index in range(6)))
    run = tmp_path / "run"
    assert stvg("tune", folder, "--run", run, "--epochs", "1", "--features", run / "f") == 0
    assert [words[0] for words in commands] == ["data", "cache", "fit"]
    assert commands[1][-3:] == ["--split", "train", "val"]
    config = read_yaml(run / "tuned" / "point.yaml")
    assert config["model"]["annotated"] is False and config["trainer"]["limit_val_batches"] == 0
    assert "so nothing is measured" in capsys.readouterr().err
    (run / "tuned" / "adapter.safetensors").touch()
    assert stvg("tune", folder, "--run", run, "--epochs", "1", "--features", run / "f") == 0
    assert [words[0] for words in commands[3:]] == ["data"], "it is finished"


@pytest.mark.parametrize("absent", ["train", "val"])
def test_a_split_that_a_tuning_needs_is_named_before_anything_is_run(
    folder: Path,
    tmp_path: Path,
    stvg: Callable[..., int],
    commands: list[Sequence[str]],
    capsys: pytest.CaptureFixture[str],
    absent: str,
) -> None:
    present = [split for split in ("train", "val", "test") if split != absent]
    write_lines(folder, *(own_line(f"cam/{index}.mp4", split=split) for index, split in enumerate(present)))
    assert stvg("tune", folder, "--run", tmp_path / "run") == 1
    assert [words[0] for words in commands] == ["data"]
    assert f"is of the split '{absent}'; give it a video" in capsys.readouterr().err


def test_a_model_that_counts_by_the_clock_is_shown_clips_so(
    folder: Path,
    tmp_path: Path,
    stvg: Callable[..., int],
    commands: list[Sequence[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mini = find_source("mini")
    viewing = replace(
        mini.description.viewing, num_frames=None, frame_rate=5.0, at_most=200, short_side=True, antialias=False
    )
    source = replace(mini, description=replace(mini.description, viewing=viewing))
    monkeypatch.setattr(tune_module, "find_source", lambda name: source)
    assert stvg("tune", folder, "--run", tmp_path / "run", "--epochs", "1") == 0
    config = read_yaml(tmp_path / "run" / "tuned" / "point.yaml")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(STVGDataModule, "data")
    data = parser.instantiate(parser.parse_object({"data": config["data"]})).data
    assert viewing_of(data, "single_pass") == viewing


def test_what_is_tuned_already_is_no_beginning(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "night"
    run.mkdir()
    (run / "adapter.safetensors").write_bytes(b"")
    (run / "config.yaml").write_text(
        "seed_everything: 0\n"
        "data: {class_path: datamodules.MiniSTVG, init_args: {num_frames: 8}}\n"
        "model: {grounder: {}, weights: random}\n"
    )
    assert stvg("tune", folder, "--run", tmp_path / "run", "--model", run) == 1
    assert "is tuned already, and tuning begins with a frozen model" in capsys.readouterr().err


def test_faulty_annotations_stop_it_unless_they_are_to_be_skipped(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def refuse(arguments: Sequence[str]) -> int:
        asked.append(arguments[0])
        return int(arguments[0] == "data")

    monkeypatch.setattr(tune_module, "_run", refuse)
    assert stvg("tune", folder, "--run", tmp_path / "run", "--epochs", "1") == 1 and asked == ["data"]
    skip = ("--on-bad-video", "skip")
    assert stvg("tune", folder, "--run", tmp_path / "run", "--epochs", "1", *skip) == 0 and asked[2:] == [
        *("test", "fit", "test")
    ]


def begin(asked: Sequence[str]) -> int:
    """Leaves what the test of the frozen model leaves."""
    if asked[0] == "test":
        folder = Path(asked[asked.index("--run") + 1])
        (folder / "results.json").write_text("{}")
    return int(asked[0] == "fit")


def test_it_goes_on_with_other_cores_and_by_another_path(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tune_module, "_run", lambda arguments: asked.append(arguments[0]) or begin(arguments))
    tune = ("tune", "--epochs", "1")
    assert stvg(*tune, folder, "--run", tmp_path / "run", "--workers", "3") == 1
    assert stvg(*tune, os.path.relpath(folder), "--run", tmp_path / "run", "--workers", "1") == 1
    assert asked == ["data", "test", "fit", "data", "fit"]


def test_results_of_other_lines_are_no_part_of_it(
    folder: Path,
    tmp_path: Path,
    stvg: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune_module, "_run", begin)
    tune = ("tune", folder, "--run", tmp_path / "run", "--epochs", "1")
    assert stvg(*tune) == 1 and stvg(*tune) == 1
    assert "has changed" not in capsys.readouterr().err
    write_lines(folder, *({**own_line(f"cam/{index}.mp4"), "sentence": "the dog barks"} for index in range(6)))
    assert stvg(*tune) == 1
    assert f"annotations.jsonl' has changed since '{tmp_path / 'run'}' was made of it" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_becomes_an_adapter_that_answers(
    folder: Path, tmp_path: Path, stvg: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    tune = ("tune", folder, "--run", run, "--epochs", "1", "--workers", "1")
    assert stvg(*tune) == 0
    assert "NullSpaceTuning" in capfd.readouterr().out
    results = load_results(run / "tuned" / "results.json")
    assert results.conditions.dataset.startswith("own_clips, annotations ")
    assert load(run / "tuned", device="cpu").ground(folder / "cam" / "0.mp4", "the man waves").tube.stop > 0
    assert stvg(*tune) == 0
    said = capfd.readouterr()
    assert "NullSpaceTuning" in said.out and said.err.count("$ python -m stvg_nst") == 1, "verified, and reported"
    assert stvg(*tune, "--seed", "1") == 1
    assert "seed_everything: 0 before, 1 now); choose another --run" in capfd.readouterr().err


@pytest.mark.parametrize(("sentences", "epochs"), [(1, 100), (3, 100), (25, 9), (60, 4), (200, 4)])
def test_there_are_as_many_steps_as_promised(sentences: int, epochs: int) -> None:
    assert tune_module.epochs_for(sentences, 2) == epochs
