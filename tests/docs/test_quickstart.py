"""The notebook of docs/: it runs from top to bottom, and what is committed of it are its own outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path("docs/quickstart.ipynb")


def test_the_notebook_is_committed_with_its_outputs() -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4, "strips, and the trade-off"
    assert "/tmp" not in NOTEBOOK.read_text() and "/work" not in NOTEBOOK.read_text()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat: Any = pytest.importorskip("nbformat", reason="notebooks are run by pip install -e '.[notebook]'")
    client: Any = pytest.importorskip("nbclient", reason="notebooks are run by pip install -e '.[notebook]'")
    pytest.importorskip("ipykernel", reason="notebooks are run by pip install -e '.[notebook]'")
    monkeypatch.setenv("QUICKSTART", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": "docs"}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "WAS" in said and (tmp_path / "nst" / "adapter.safetensors").is_file()
