"""The numbers of the docs are those that the commands wrote, filled in by a command and not by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.embed_tables import embedded, main

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = "| Scope | WAS |\n|---|---:|\n| decoder | +2.8 |\n"
SOURCE = f"## Table I, 100 clips\n\n### declarative\n\n{TABLE}\n* 3 of 5 runs\n"
PAGE = (
    "# Results\n\n<!-- begin made/table1.md tables -->\n{tables}<!-- end -->\n\nIn words.\n\n"
    "<!-- begin made/table1.md notes -->\n{notes}<!-- end -->\n"
)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "table1.md").write_text(SOURCE)
    return tmp_path / "page.md"


def test_every_page_holds_the_tables_as_they_were_written() -> None:
    pages = [path for path in DOCS.glob("*.md") if "<!-- begin" in path.read_text()]
    assert pages
    stale = [path.name for path in pages if path.read_text() != embedded(path)]
    assert not stale, f"run `make docs`: {stale} differ from the tables in docs/"


def test_tables_and_notes_take_their_places(page: Path) -> None:
    page.write_text(PAGE.format(tables="", notes=""))
    main([str(page)])
    tables = f"\n*declarative*\n\n{TABLE}\n"
    assert page.read_text() == PAGE.format(tables=tables, notes="* 3 of 5 runs\n")
    main([str(page)])  # again, over what stands there
    assert page.read_text() == PAGE.format(tables=tables, notes="* 3 of 5 runs\n")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("no mark\n", "0 whole pairs and 0 marks"),
        (PAGE.format(tables="", notes="") + "<!-- begin made/table1.md tables -->\n", "2 whole pairs and 5 marks"),
        ("<!-- begin made/table1.md rows -->\n<!-- end -->\n", "0 whole pairs and 2 marks"),
        ("<!-- begin a.md tables -->\n<!-- begin b.md tables -->\n<!-- end -->\n", "1 whole pairs and 3 marks"),
    ],
    ids=["nothing", "open", "misspelt", "nested"],
)
def test_a_mark_without_its_other_half_is_refused(page: Path, text: str, got: str) -> None:
    page.write_text(text)
    with pytest.raises(ValueError, match=got):
        main([str(page)])
    assert page.read_text() == text


def test_a_missing_table_is_refused(page: Path) -> None:
    page.write_text("<!-- begin made/table2.md tables -->\n<!-- end -->\n")
    with pytest.raises(FileNotFoundError, match=r"table2\.md"):
        main([str(page)])
