from __future__ import annotations

import re
from pathlib import Path

import pytest
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from stvg_nst.run_lock import alone_in_run


def test_a_second_command_is_refused_in_one_line(tmp_path: Path) -> None:
    said = f"'{tmp_path}' is in use by another command; wait until it ends, or choose another folder"
    with alone_in_run(tmp_path), pytest.raises(BlockingIOError, match=f"^{re.escape(said)}$"), alone_in_run(tmp_path):
        pass
    with alone_in_run(tmp_path):
        pass


@pytest.mark.parametrize(("rank", "machine"), [(1, {}), (0, {"NODE_RANK": "1"}), (0, {"GROUP_RANK": "2"})])
def test_the_first_process_holds_the_folder_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, machine: dict[str, str]
) -> None:
    with alone_in_run(tmp_path):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        for name, value in machine.items():
            monkeypatch.setenv(name, value)
        with alone_in_run(tmp_path):
            pass
