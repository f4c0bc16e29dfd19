"""`predict`: a person's video, and a table of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from datamodules import MiniSTVG
from datamodules.video import probe, write_video
from stvg_nst import __main__ as root
from stvg_nst.evaluation import load_predictions
from tests.stvg_nst.prediction.adapters import SENTENCE, save_random_adapter

Predict = Callable[..., int]
FROZEN = "stvg_nst/models/mini/model.safetensors"


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = MiniSTVG(tmp_path_factory.mktemp("data"), test_clips=1)
    data.setup("test")
    return data.records["test"][0].video


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Predict:
    def run(*words: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stvg_nst", "predict", *map(str, words), "--device", "cpu"])
        return root.main()

    return run


def test_a_video_and_a_sentence(
    predict: Predict, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert predict(film, SENTENCE) == 0
    said = capsys.readouterr()
    assert f"{film.stem}/1: {SENTENCE}\n" in said.out and " confidence 0." in said.out
    assert (
        "model: mini, adapter 'mini' (NullSpaceTuning)" in said.err
        and f"written to predictions/{film.stem}" in said.err
    )
    assert "in films of anything else its answers are noise; give --model" in said.err
    folder = tmp_path / "predictions" / film.stem
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"answers.jsonl", "predictions.json", "answer.mp4", "answer.png"}
    predictions = load_predictions(folder / "predictions.json")
    assert (predictions.method, predictions.item_ids) == ("NullSpaceTuning", (f"{film.stem}/1",))
    assert probe(folder / "answer.mp4").num_frames == 32
    # Answers are never replaced unasked.
    before = (folder / "answers.jsonl").read_bytes()
    assert predict(film, SENTENCE) == 1
    assert "holds answers already; choose another --output, or give --overwrite" in capsys.readouterr().err
    assert predict(film, "another star", "a third", "--overwrite", "--no-pictures", "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["sentence"] for line in lines] == ["another star", "a third"]
    assert {path.name for path in folder.iterdir()} == {".lock", "answers.jsonl", "predictions.json"}
    assert (folder / "answers.jsonl").read_bytes() != before


@pytest.mark.parametrize("name", ["answer.mp4", "answer-2.mp4"])
def test_what_is_asked_about_is_never_replaced(
    predict: Predict, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    own = tmp_path / name
    own.write_bytes(film.read_bytes())
    (tmp_path / "answers-of-mine.csv").touch()
    asked = (own, SENTENCE, "another star", "--output", tmp_path)
    for words in ((), ("--overwrite",)):
        assert predict(*asked, *words) == 1
        assert f"would replace '{own}', which is asked about; choose another --output" in capsys.readouterr().err
    assert predict(film, SENTENCE, "--output", tmp_path, "--overwrite", "--no-pictures") == 0
    assert (tmp_path / "answers-of-mine.csv").exists() and not own.exists(), "an earlier answer, and no other file"


def test_a_tuned_model_beside_the_frozen_one(
    predict: Predict, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save_random_adapter(tmp_path / "night.safetensors", router="shared")
    assert predict(film, SENTENCE, "--adapter", adapter, "--compare", "--output", tmp_path / "out", "--stop", "3") == 0
    said = capsys.readouterr()
    assert "adapter 'night' (NullSpaceTuning)" in said.err and "\n  frozen: " in said.out
    line = json.loads((tmp_path / "out" / "answers.jsonl").read_text().splitlines()[1])
    assert line["quality"] > 0 and line["frozen"]["method"] == "ZeroShot"
    assert probe(tmp_path / "out" / "answer.mp4").num_frames == 24


@pytest.fixture
def table(film: Path, tmp_path: Path) -> Path:
    """Four sound rows, a film that is none, one that is gone, and a film that is cut off."""
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:1000])
    write_video(tmp_path / "größer.mp4", np.zeros((20, 64, 96, 3), np.uint8), 10)
    rows = [(film, SENTENCE), (film, "a small one"), ("text.mp4", SENTENCE), ("größer.mp4", "what is it?")]
    rows += [("gone.mp4", SENTENCE), ("cut.mp4", SENTENCE), (film, "a third")]
    (tmp_path / "table.csv").write_text("video,sentence\n" + "".join(f"{video},{words}\n" for video, words in rows))
    return tmp_path / "table.csv"


def test_a_table_goes_on_where_it_stopped(
    predict: Predict, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ("--table", table, "--output", tmp_path / "out")
    assert predict(*output) == 1, "bad rows are refused unless one says what to do with them"
    assert "or go on without such rows by --on-bad-video skip" in capsys.readouterr().err
    assert predict(*output, "--on-bad-video", "skip", "--workers", "3") == 0
    said = capsys.readouterr()
    assert "4 of 7 rows answered, 3 bad" in said.err
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()[1:]]
    assert sorted(line["item_id"] for line in lines if "error" in line) == ["cut/6", "gone/5", "text/3"]
    assert len(load_predictions(tmp_path / "out" / "predictions.json").item_ids) == 4
    assert "größer/4" in said.out and "gone/5: bad: " in said.out

    # A film that has come back is answered, and nothing else anew.
    (tmp_path / "gone.mp4").write_bytes((tmp_path / "größer.mp4").read_bytes())
    assert predict(*output, "--on-bad-video", "skip", "--pictures") == 0
    said = capsys.readouterr()
    assert "5 of 7 rows answered, 2 bad" in said.err and SENTENCE in said.out and "größer/4" not in said.out
    assert {path.name for path in (tmp_path / "out").glob("answer-*")} == {"answer-5.mp4", "answer-5.png"}
    assert predict(*output, "--on-bad-video", "skip", "--window", "2") == 1
    assert "window: None before, 2.0 now" in capsys.readouterr().err
    assert predict(*output, "--on-bad-video", "skip", "--dtype", "bfloat16") == 1
    assert "dtype: None before, 'bfloat16' now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["film.mp4"], "expected a video and a sentence, or --table TABLE"),
        ([], "expected a video and a sentence, or --table TABLE"),
        (["docs", "a man"], "'docs' is a folder: name one film, or ask about many by --table TABLE"),
        (["film.mp4", "a", "--table", "t.csv"], "a table says itself what is asked: leave out video, or --table"),
        (["--start", "1", "--table", "t.csv"], "leave out start, or --table"),
        (["--table", "t.csv", "--no-pictures"], "--no-pictures is for a video"),
        (["film.mp4", "a", "--pictures"], "--pictures is for a table"),
        (["film.mp4", "a", "--on-bad-video", "skip"], "--on-bad-video skip is for the rows of a table"),
        (["film.mp4", "a", "--start", "-1"], "expected a finite number, at least 0, got -1"),
        (["film.mp4", "a", "--device"], "expected one argument"),
        (["film.mp4", "a", "--compar"], r"--compar \(did you mean '--compare'\?\)"),
    ],
)
def test_wrong_words_are_refused_at_once(
    predict: Predict, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        predict(*words)
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.mp4", SENTENCE], "cannot decode 'absent.mp4': there is no such file"),
        (["absent.mp4", "?"], "the sentence '?' is a blank sentence"),
        (["absent.mp4", SENTENCE, "--model", "maxi"], "there is no 'maxi'"),
        (["absent.mp4", SENTENCE, "--adapter", "absent.safetensors"], "absent.safetensors': No such file"),
        (["absent.mp4", SENTENCE, "--compare", "--model", FROZEN], "--compare needs a tuned model"),
        (["--table", "absent.csv"], "absent.csv': No such file"),
    ],
)
def test_what_a_person_does_wrong_is_told_in_one_line(
    predict: Predict, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(*words, "--output", tmp_path / "out") == 1
    said = capsys.readouterr().err
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0] and "Traceback" not in said
    assert not (tmp_path / "out" / "answers.jsonl").exists(), "it would stand in the way of the corrected question"
