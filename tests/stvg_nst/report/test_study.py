from __future__ import annotations

from rich.console import Console

from stvg_nst.report.findings import Findings
from stvg_nst.report.sheet import print_sheet, sheet_csv, sheet_markdown
from stvg_nst.report.study import study_sheet


def test_markdown_by_hand(findings: Findings) -> None:
    def row(quantity: str, point: str, trainable: str, seeds: int, cell: str) -> str:
        return f"| {quantity} | {point} | {trainable} | {seeds} of 2 |" + f" {cell} |" * 4 + "\n"

    assert sheet_markdown(study_sheet(findings)) == (
        "### A study\n"
        "\n"
        "|  | Point | Trainable | Seeds | m_tIoU | m_vIoU | vIoU@0.3 | vIoU@0.5 |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|\n"
        + row("LQ gain", "full", "1.50 k", 2, "**+1.50 \u00b1 0.71**")
        + row("LQ gain", "a\\|b", "1.50 k", 1, "+1.00")
        + row("LQ gain", "broken", "-", 0, "failed")
        + row("HQ change", "full", "1.50 k", 2, "**-0.50 \u00b1 0.00**")
        + row("HQ change", "a\\|b", "1.50 k", 1, "**-0.50**")
        + row("HQ change", "broken", "-", 0, "failed")
        + row("WAS", "full", "1.50 k", 2, "**+1.00 \u00b1 0.71**")
        + row("WAS", "a\\|b", "1.50 k", 1, "+0.50")
        + row("WAS", "broken", "-", 0, "failed")
        + "\n"
        "* MiniSTVG val, benchmark seed 3. Points of difference to ZeroShot (HQ 50.00 / 50.00 / 50.00 / 50.00, "
        "LQ 30.00 / 30.00 / 30.00 / 30.00), mean \u00b1 sample standard deviation over seeds.\n"
        "* INCOMPLETE: 1 of 7 runs are not finished\n"
    )


def test_the_terminal_says_the_same_in_one_hundred_columns(findings: Findings) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        print_sheet(study_sheet(findings), console)
    lines = capture.get().splitlines()
    words = [line.split() for line in lines]
    assert ["LQ", "gain", "full", "1.50", "k", "2", "of", "2", *(["+1.50", "\u00b1", "0.71"] * 4)] in words
    assert ["broken", "-", "0", "of", "2", *(["failed"] * 4)] in words
    assert max(len(line) for line in lines if not line.startswith("note:")) <= 100


def test_csv_leaves_empty_what_is_not_known(findings: Findings) -> None:
    rows = sheet_csv(study_sheet(findings)).splitlines()
    assert len(rows) == 1 + 3 * 4
    assert rows[1] == f"A study,MiniSTVG,val,3,mixed,full,1500,2,2,m_tIoU,1.5,{0.5**0.5},-0.5,0.0,1.0,{0.5**0.5}"
    assert rows[5] == "A study,MiniSTVG,val,3,mixed,a|b,1500,1,2,m_tIoU,1.0,,-0.5,,0.5,"
    assert rows[9] == "A study,MiniSTVG,val,3,mixed,broken,,0,2,m_tIoU,,,,,,"
