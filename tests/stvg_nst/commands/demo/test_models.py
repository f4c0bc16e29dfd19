from __future__ import annotations

import re
from pathlib import Path

from stvg_nst.commands.demo.models import SHIPPED, Models


def run(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("adapter.safetensors", "config.yaml"):
        (folder / name).touch()
    return folder


def test_the_run_of_make_train_is_offered_first_and_the_shipped_model_last(tmp_path: Path) -> None:
    (tuner,) = re.findall(r"^TUNER \?= (\w+)$", Path("Makefile").read_text(), re.MULTILINE)
    other, main = run(tmp_path / "compare" / "a"), run(tmp_path / "mini" / tuner)
    (tmp_path / "unfinished").mkdir()
    models = Models([tmp_path])
    assert models.names == [str(main), str(other), SHIPPED]
    assert models.folder(str(main)) == main and models.folder(SHIPPED) is None
