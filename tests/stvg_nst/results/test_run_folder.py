from __future__ import annotations

import ast
from pathlib import Path

import pytest

from stvg_nst.results.run_folder import RunFile

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = {value for name, value in vars(RunFile).items() if name.isupper()}
SOURCES = [path for folder in ("stvg_nst", "callbacks") for path in sorted((REPOSITORY / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_other_file_spells_a_name_out(path: Path) -> None:
    if path.name == "run_folder.py":
        return
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    spelt = [f"line {node.lineno}: {node.value}" for node in found if node.value in NAMES]
    assert not spelt, f"use stvg_nst.results.run_folder.RunFile: {spelt}"
