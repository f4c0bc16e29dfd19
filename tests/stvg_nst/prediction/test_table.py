"""Many rows: what a table says, what stays after a kill, and what is done with rows that cannot be answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.prediction import VideoGrounder
from stvg_nst.prediction import table as table_module
from stvg_nst.prediction.answer import Answer
from stvg_nst.prediction.table import AnswerFile, Asking, Row, TableError, answer_rows, read_table
from tests.stvg_nst.prediction.adapters import SENTENCE

ROWS = (
    Row("a/1", Path("films/a.mp4"), "a star, red"),
    Row("night", Path("films/b.mp4"), "it spins", start=1.5, stop=2.0),
)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "t.csv",
            'video,sentence,item_id,start,stop\nfilms/a.mp4,"a star, red",,,\nfilms/b.mp4,it spins,night,1.5,2\n',
        ),
        (
            "t.csv",
            '\ufeffsentence;video;start;stop;item_id\r\n"a star, red";films/a.mp4;;;\r\n'
            "it spins;films/b.mp4;1.5;2;night\r\n",
        ),
        (
            "t.tsv",
            "video\tsentence\titem_id\tstart\tstop\nfilms/a.mp4\ta star, red\t\t\t\n"
            "films/b.mp4\tit spins\tnight\t1.5\t2\n",
        ),
        (
            "t.jsonl",
            '{"video": "films/a.mp4", "sentence": "a star, red", "start": null}\n\n'
            '{"video": "films/b.mp4", "sentence": "it spins", "item_id": "night", "start": 1.5, "stop": 2}\n',
        ),
    ],
)
def test_a_table_is_read_in_every_dialect(tmp_path: Path, name: str, text: str) -> None:
    rows = read_table(write(tmp_path, name, text))
    for row, expected in zip(rows, ROWS, strict=True):
        assert row.video == tmp_path / expected.video, "relative to the table"
        assert (row.item_id, row.sentence, row.start, row.stop) == (
            *(expected.item_id, expected.sentence, expected.start, expected.stop),
        )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "video,sentence\n", "t.csv' has no rows"),
        ("t.csv", "", "t.csv' has no rows"),
        ("t.csv", "video,words\na.mp4,b\n", "line 2: there is no sentence; the columns are video, sentence, item_id"),
        ("t.csv", "video,sentence,end\na.mp4,b,3\n", "line 2: unknown column 'end'; the columns are video"),
        ("t.csv", "video,sentence\na.mp4,b,3\n", "line 2: there are more fields than names in the first line"),
        ("t.csv", "video,sentence,start\na.mp4,b,soon\n", "line 2: expected a number of seconds, got 'soon'"),
        ("t.csv", 'video,sentence\na.mp4,"b\n', r"is no CSV \(unexpected end of data\)"),
        ("t.csv", "video,sentence,item_id\na.mp4,b,x\nb.mp4,c,x\n", "rows 1 and 2 are both called 'x'"),
        ("t.jsonl", '{"video": "a.mp4", "sentence": "b"}\n{"video"', "line 2: is no JSON"),
        ("t.jsonl", "[1]\n", r"line 1: expected an object, got \[1\]"),
        ("t.jsonl", '{"video": "a.mp4", "sentence": "b", "stop": [1]}\n', r"expected a number of seconds, got \[1\]"),
        ("t.jsonl", '{"video": "a.mp4", "sentence": "b", "stop": true}\n', "expected a number of seconds, got True"),
        ("t.csv", "video,sentence,stop\na.mp4,b,nan\n", "expected a number of seconds, got 'nan'"),
        ("t.jsonl", '{"video": "a.mp4", "sentence": ["b"]}\n', r"expected a text as sentence, got \['b'\]"),
        ("t.jsonl", '{"video": 7, "sentence": "b"}\n', "expected a text as video, got 7"),
    ],
)
def test_a_faulty_table_is_refused_by_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(write(tmp_path, name, text))


def test_a_sentence_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    (row,) = read_table(write(tmp_path, "t.jsonl", '{"video": "a.mp4", "sentence": "a\u2028b\u0085c"}\r\n'))
    assert row.sentence == "a\u2028b\u0085c"


def test_blanks_around_the_names_of_columns_are_none_of_them(tmp_path: Path) -> None:
    (row,) = read_table(write(tmp_path, "t.csv", "video, sentence ,start\na.mp4,b,2\n"))
    assert (row.sentence, row.start) == ("b", 2.0)


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("video,sentence\na.mp4,größer\n".encode("latin-1"))
    with pytest.raises(TableError, match="is no text in UTF-8"):
        read_table(tmp_path / "t.csv")


# --- what stays -------------------------------------------------------------------------------------------------------


class Said:
    """In the place of an answer."""

    def as_dict(self) -> dict[str, Any]:
        return {"start": 1, "stop": 2, "boxes": [[0, 0, 1, 1]]}


ANSWER: Any = Said()


def test_answers_are_gone_on_with(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", {"model": "mini"})
    assert file.left_of(ROWS) == [*ROWS]
    line = json.loads(file.add(ROWS[0], ANSWER))
    assert line["item_id"] == "a/1" and line["asked"]["sentence"] == "a star, red"
    again = AnswerFile(tmp_path / "answers.jsonl", {"model": "mini"})
    assert again.left_of(ROWS) == [ROWS[1]] and again.lines["a/1"]["stop"] == 2


def test_half_a_line_of_a_process_that_was_killed_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    file = AnswerFile(path, {"model": "mini"})
    lines = file.add(ROWS[0], ANSWER), file.add(ROWS[1], ANSWER)
    text = path.read_text()
    path.write_text(text[: -len(lines[1]) // 2])
    again = AnswerFile(path, {"model": "mini"})
    assert again.left_of(ROWS) == [ROWS[1]]
    assert again.add(ROWS[1], ANSWER) == lines[1] and path.read_text() == text


def test_what_could_not_be_answered_is_tried_again(tmp_path: Path) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl", {})
    assert json.loads(file.add(ROWS[0], ValueError("no film")))["error"] == "no film"
    assert AnswerFile(tmp_path / "answers.jsonl", {}).left_of(ROWS) == [*ROWS]


def test_answers_of_another_model_or_another_table_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path, {"model": "mini", "window": None}).add(ROWS[0], ANSWER)
    with pytest.raises(TableError, match=r"answered otherwise \(window: None before, 3 now\); choose another --output"):
        AnswerFile(path, {"model": "mini", "window": 3})
    changed = Row("a/1", ROWS[0].video, "another sentence")
    with pytest.raises(TableError, match=r"row 'a/1' asks .*another sentence.* now, and .* has the answer to"):
        AnswerFile(path, {"model": "mini", "window": None}).left_of([changed])
    for text, message in (
        ("", "a cut line"),
        ("[1]\n", "a cut line"),
        ("answers\n", "holds no answers that can be gone"),
    ):
        path.write_text(text)
        with pytest.raises(TableError, match=message):
            AnswerFile(path, {})


# --- answering --------------------------------------------------------------------------------------------------------


def nothing(row: Row, answer: Answer) -> None: ...


def answers(grounder: VideoGrounder, rows: list[Row], **options: Any) -> dict[str, Any]:
    return {
        row.item_id: answer for row, answer in answer_rows(grounder, rows, Asking(), workers=2, draw=nothing, **options)
    }


def test_rows_of_one_film_share_its_decoding(mini: VideoGrounder, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    open_footage = table_module.open_footage
    monkeypatch.setattr(
        table_module, "open_footage", lambda video, **o: opened.append(video) or open_footage(video, **o)
    )
    rows = [Row("1", clip, SENTENCE), Row("2", clip, "it spins"), Row("3", clip, SENTENCE, start=1.0)]
    found = answers(mini, rows)
    assert opened == [clip, clip], "a part of a film is another film"
    assert found["1"].confidence == pytest.approx(mini.ground(clip, SENTENCE).confidence, rel=1e-4)
    assert found["3"].segment == (8, 32) and found["2"].sentence == "it spins"


def test_a_bad_row_does_not_stop_the_others(mini: VideoGrounder, clip: Path, tmp_path: Path) -> None:
    write(tmp_path, "text.mp4", "no film")
    rows = [
        Row("good", clip, SENTENCE),
        Row("blank", clip, "?"),
        Row("late", clip, SENTENCE, start=9.0),
        Row("text", tmp_path / "text.mp4", SENTENCE),
        Row("gone", tmp_path / "gone.mp4", SENTENCE),
    ]
    found = answers(mini, rows)
    assert isinstance(found.pop("good"), Answer)
    said = {name: str(error) for name, error in found.items()}
    assert "is a blank sentence" in said["blank"] and "expected 0 <= start < stop within the 4 s" in said["late"]
    assert "no video" in said["text"] and "there is no such file" in said["gone"]


def test_a_bug_is_no_bad_row(mini: VideoGrounder, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Iterator[Any]:
        raise TypeError("a bug")

    monkeypatch.setattr(table_module, "open_footage", broken)
    with pytest.raises(TypeError, match="a bug"):
        answers(mini, [Row("1", clip, SENTENCE)])
