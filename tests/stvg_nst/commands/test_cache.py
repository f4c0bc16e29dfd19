from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stvg_nst.commands.cache import _store_features


@pytest.mark.parametrize(
    ("versions", "words"),
    [(0, "val: is stored already, in 'features/val'"), (2, "val: 2 versions of clips to write: about 64 bytes in")],
)
def test_a_line_tells_where_the_features_of_a_split_are(
    versions: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_cache(split: str, encode: Any, backbones: str, progress: Any, *, device: torch.device) -> Path:
        for done in range(1, versions + 1):
            progress(done, versions, 64)
        return folder

    folder = Path("features/val")
    data: Any = SimpleNamespace(cache_folder=lambda split: folder, build_cache=build_cache)
    _store_features(data, "val", lambda batch: batch, "backbones", torch.device("cpu"))  # type: ignore[arg-type, return-value]
    assert [words in line for line in "".join(capsys.readouterr()).splitlines()].count(True) == 1
