from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from stvg_nst.commands.report import report
from stvg_nst.report import folder
from tests.stvg_nst.report.test_folder import write_run


def closed_pipe(*arguments: Any, **options: Any) -> Any:
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_tables_are_written_before_they_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", "ZeroShot", 40)
    monkeypatch.setattr(folder, "_print", closed_pipe)
    with pytest.raises(BrokenPipeError):
        report([str(tmp_path), "--markdown", str(tmp_path / "table.md")], "report")
    assert "ZeroShot" in (tmp_path / "table.md").read_text()
