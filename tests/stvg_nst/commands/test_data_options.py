"""What the commands on data have in common."""

from __future__ import annotations

import pytest
from rich.console import Console

from stvg_nst.commands.data_options import say


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = '{"sentence": "[b]a[/b] :dog: runs", "boxes": [' + ", ".join(["[1.0, 2.0, 3.0, 4.0]"] * 20) + "]}"
    say(Console(), line)
    assert capsys.readouterr().out == f"{line}\n"
