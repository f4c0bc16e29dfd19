from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stvg_nst.commands.share import share
from stvg_nst.configuration import merge, read_yaml
from stvg_nst.models.description import DescriptionError
from stvg_nst.prediction import load
from stvg_nst.prediction.loading import find_source
from tests.stvg_nst.prediction.adapters import SENTENCE, save_random_adapter
from tests.stvg_nst.report.test_folder import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fit of the miniature that was tested."""
    folder = tmp_path_factory.mktemp("runs") / "nst"
    write_run(folder, "NullSpaceTuning", 42.0)
    config: dict[str, Any] = {}
    for name in ("base", "data/mini", "model/mini", "model/mini_weights", "tuner/nst"):
        config = merge(config, read_yaml(Path(f"experiments/{name}.yaml")))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    save_random_adapter(folder / "adapter.safetensors", router="shared")
    return folder


def test_a_shared_folder_answers_as_the_run_does(run: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    assert share([str(run), "user/night", "--output", str(shared)], "share") == 0
    card = (shared / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: stvg_nst\n") and "| LQ |  | 42.00 |" in card
    assert 'load("hub:user/night")' in card and json.loads((shared / "config.json").read_text())["frozen"] in card

    frames = torch.zeros(8, 3, 128, 128)
    answers = []
    for source in (run, shared):
        network = load(source, device="cpu").network
        answers.append(network.find(network.encode(frames), tuple(range(8)), (128, 128), [SENTENCE])[0])
    assert answers[0].tube.start == answers[1].tube.start and answers[0].quality == answers[1].quality
    assert torch.equal(answers[0].tube.boxes, answers[1].tube.boxes)


def test_what_cannot_be_shared_is_said_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    for words, kind, message in (
        (["night"], ValueError, "expected user/name"),
        (["user/night", "--baseline", str(tmp_path)], FileNotFoundError, r"predictions\.json' to compare with"),
    ):
        with pytest.raises(kind, match=message):
            share([str(run), *words, "--output", str(tmp_path / "shared")], "share")
    assert not (tmp_path / "shared").exists()


def test_an_adapter_of_other_weights_says_that_it_needs_them(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as those of a full-size network: here the miniature's, from a folder that is not the suite's."""
    other = tmp_path / "run"
    weights = Path(shutil.copy(find_source("mini").weights, tmp_path / "tubes.safetensors"))
    shutil.copytree(run, other)
    config = merge(read_yaml(run / "config.yaml"), {"model": {"weights": str(weights)}})
    (other / "config.yaml").write_text(yaml.safe_dump(config))

    assert share([str(other), "user/night", "--output", str(tmp_path / "shared")], "share") == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert 'load("weights.safetensors", adapters={"shared": "hub:user/night"}).ground(' in card
    assert "frozen weights: `tubes.safetensors`, weights of CGSTVG that you have to have; fingerprint" in card
    said = f'load("weights.safetensors", adapters={{"shared": "{tmp_path / "shared"}"}}) reads it'
    assert said in capsys.readouterr().out
    assert str(load(weights, adapters={"shared": tmp_path / "shared"}, device="cpu")).endswith(
        "adapter 'shared' (NullSpaceTuning)"
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": None}, "belongs to weights that do not come with the suite"),
        (
            {"description": {"format_version": 1, "grounder": {"class_path": "os.system"}}},
            "wrongly|may name",
        ),
        ({"description": None}, "no folder that `share` has written|describes its network"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused(run: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    share([str(run), "user/night", "--output", str(shared)], "share")
    content = json.loads((shared / "config.json").read_text())
    (shared / "config.json").write_text(json.dumps(content | change))
    with pytest.raises(DescriptionError, match=words):
        load(shared, device="cpu")
