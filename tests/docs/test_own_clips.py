"""The page on own clips: its example is one, and its table names every field."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.footage import Footage
from datamodules.own_clips.format import FIELDS, parse_line, read_lines

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own_clips.md").read_text()


def test_the_example_of_the_page_is_sound(tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "annotations.jsonl").write_text(example)
    read = read_lines(tmp_path / "annotations.jsonl")
    assert not read.errors and not read.unknown
    film = Footage("film", tuple(index / 25 for index in range(25 * 90)), 25.0, (480, 854))
    found = [parse_line(line, film) for line in read.lines]
    assert [(a.start, a.stop) for a in found] == [(50, 137), (50, 137), (31, 88), (1605, 1750)]
    assert [a.sentence_type for a in found] == ["declarative", "interrogative", "declarative", "declarative"]


def test_the_table_of_the_page_names_every_field() -> None:
    table = PAGE[PAGE.index("| field |") : PAGE.index("* **Between two boxes**")]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == set(FIELDS)
