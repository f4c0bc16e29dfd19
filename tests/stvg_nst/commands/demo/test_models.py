from __future__ import annotations

import re
from pathlib import Path

from stvg_nst.commands.demo.models import SHIPPED, Models


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("adapter.safetensors", "config.yaml"):
        (folder / name).touch()
    return folder


def test_null_space_tuning_is_offered_ahead_of_all_other_runs(tmp_path: Path) -> None:
    (tuner,) = re.findall(r"^TUNER \?= (\w+)$", Path("Makefile").read_text(), re.MULTILINE)
    other = run(tmp_path / "compare" / "a")
    (tmp_path / "unfinished").mkdir()
    assert Models([tmp_path]).names == [SHIPPED, str(other)]
    main = run(tmp_path / "mini" / tuner)
    models = Models([tmp_path])
    assert models.names == [str(main), SHIPPED, str(other)]
    assert models.folder(str(main)) == main and models.folder(SHIPPED) is None
