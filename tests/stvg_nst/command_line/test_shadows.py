from __future__ import annotations

import sys
from pathlib import Path

import pytest

from stvg_nst.command_line.shadows import refuse_shadows


def test_our_own_packages_are_not_refused() -> None:
    refuse_shadows()


@pytest.mark.parametrize("place", ["callbacks/__init__.py", "callbacks.py", "datamodules/__init__.py"])
def test_a_package_that_hides_ours_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    name = place.partition("/")[0].removesuffix(".py")
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ValueError, match=f"package '{name}' of this suite, .*Python finds '{path}'"):
        refuse_shadows()


def test_a_folder_without_code_hides_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "callbacks").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    refuse_shadows()
