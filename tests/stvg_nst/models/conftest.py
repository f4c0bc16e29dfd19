"""The official model as the specification has it, and ours at full size with a text encoder from a local folder."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from stvg_nst.commands.weights import FULL_SIZE, weights_parser
from stvg_nst.models import CGSTVG
from stvg_nst.models.blocks.vocabulary import write_stand_in


@pytest.fixture(scope="session")
def cgstvg(shared: Path) -> Path:
    return shared / "cgstvg"


@pytest.fixture(scope="session")
def rule(cgstvg: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_weights", cgstvg / "golden_weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shapes(cgstvg: Path) -> dict[str, tuple[int, ...]]:
    """Of every tensor of an official checkpoint."""
    manifest = json.loads((cgstvg / "state_dict_manifest.json").read_text())
    return {row["key"]: tuple(row["shape"]) for row in manifest["keys"]}


@pytest.fixture(scope="session")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of roberta-base beside a tokenizer of a few words."""
    folder = tmp_path_factory.mktemp("roberta")
    write_stand_in(["a man runs"], folder)
    return folder


@pytest.fixture(scope="session")
def build_full_size(roberta_folder: Path) -> Callable[[], CGSTVG]:
    """Builds the configuration `experiments/model/cgstvg.yaml`."""

    def build() -> CGSTVG:
        parser = weights_parser("test", "Full size.")
        source = f"--model.grounder.init_args.text.init_args.source={roberta_folder}"
        options = parser.parse_args([f"--config={FULL_SIZE}", source])
        grounder = parser.instantiate(options).model.grounder
        assert isinstance(grounder, CGSTVG)
        return grounder

    return build


@pytest.fixture
def full_size(build_full_size: Callable[[], CGSTVG]) -> CGSTVG:
    """The full size without memory for its values."""
    with torch.device("meta"):
        return build_full_size()
