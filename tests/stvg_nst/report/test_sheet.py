"""One sheet, three forms that say the same."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from stvg_nst.report.sheet import (
    Cell,
    Section,
    Sheet,
    print_sheet,
    sheet_console,
    sheet_csv,
    sheet_markdown,
    sheet_text,
    write_sheet,
)

LONG = "a method of quite a long name that does not fit"


def section(labels: int = 2) -> Section:
    rows = [
        (Cell("HQ"), Cell("<base>|line"), Cell("50.00", 50.0), Cell("123456.78 [+1.0, +2.0]")),
        (Cell("HQ"), Cell(LONG), Cell("51.00", 51.0, " (+1.00)"), Cell("123456.78 [+1.0, +2.0]")),
        (Cell("LQ"), Cell(LONG), Cell("51.00", 51.0, " (-1.00)"), Cell("-")),
    ]
    return Section("Table", ("", "Method", "m_vIoU", "interval"), tuple(rows), labels)


SHEET = Sheet(
    "Title", (section(),), ("a|note",), ({"method": "a", "m_vIoU": 0.1 + 0.2}, {"method": "b", "m_vIoU": None})
)


def shown(width: int) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False)
    print_sheet(SHEET, console)
    assert console.width == width
    return text.getvalue()


def test_markdown_by_hand() -> None:
    assert sheet_markdown(SHEET) == (
        "## Title\n"
        "\n"
        "### Table\n"
        "\n"
        "|  | Method | m_vIoU | interval |\n"
        "|---|---|---:|---:|\n"
        "| HQ | &lt;base>\\|line | 50.00 | 123456.78 [+1.0, +2.0] |\n"
        f"| HQ | {LONG} | **51.00** (+1.00) | 123456.78 [+1.0, +2.0] |\n"
        f"| LQ | {LONG} | 51.00 (-1.00) | - |\n"
        "\n"
        "* a|note\n"
    )


def test_a_name_between_colons_is_no_picture() -> None:
    assert "note: runs/a:dog:b" in sheet_text(Sheet("", (), ("runs/a:dog:b",)))
    with (console := sheet_console()).capture() as said:
        console.print("runs/a:dog:b")
    assert said.get() == "runs/a:dog:b\n"


@pytest.mark.parametrize("width", [30, 70, 200])
def test_no_terminal_is_too_narrow_for_a_number(width: int) -> None:
    text = shown(width)
    assert text.count("123456.78 [+1.0, +2.0]") == 2 and "51.00 (+1.00)" in text and "\u2026" not in text
    assert (LONG in text) == (width == 200), "names are folded first"
    assert text.count("HQ") == text.count("LQ") == 1, "a group is named once"


def test_numbers_are_exact_in_csv_and_what_is_unknown_is_empty() -> None:
    assert sheet_csv(SHEET) == "method,m_vIoU\na,0.30000000000000004\nb,\n"
    assert sheet_csv(Sheet("", ())) == ""


def test_the_best_is_of_its_group_and_needs_a_rival() -> None:
    best = [section().is_best(row, 2) for row in section().rows]
    assert best == [False, True, False]
    assert [len(group) for group in section().groups] == [2, 1] and [len(g) for g in section(1).groups] == [3]


def test_files_are_those_that_were_asked_for(tmp_path: Path) -> None:
    named = Sheet(SHEET.title, SHEET.sections, name="t")
    assert [path.name for path in write_sheet(named, tmp_path, ("md", "txt"))] == ["t.md", "t.txt"]
    lines = (tmp_path / "t.txt").read_text().splitlines()
    assert lines[0] == "Title" and all(line == line.rstrip() for line in lines)


def test_a_file_has_no_colours_whatever_the_environment_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = sheet_text(SHEET)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert sheet_text(SHEET) == plain and "\x1b" not in plain


def test_sums_that_read_alike_are_both_the_best() -> None:
    points = {"a": 20.0 / 3, "b": -2.941 + 9.6076666666, "c": 6.65}
    rows = tuple((Cell(name), Cell(f"{value:+.2f}", value)) for name, value in points.items())
    text = sheet_markdown(Sheet("", (Section("", ("", "Method", "WAS"), tuple((Cell("WAS"), *row) for row in rows)),)))
    assert text.count("**+6.67**") == 2 and "| +6.65 |" in text
