from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stvg_nst.commands.share import share
from stvg_nst.configuration import merge, read_yaml
from stvg_nst.evaluation import render_ground_truth, render_predictions
from stvg_nst.models.description import DescriptionError
from stvg_nst.prediction import load
from stvg_nst.prediction.loading import find_source
from stvg_nst.report import BaselineError
from stvg_nst.report.certificate import to_json
from tests.stvg_nst.prediction.adapters import SENTENCE, save_random_adapter
from tests.stvg_nst.report.test_certificate import CERTIFICATE
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


def write_answers(folder: Path, method: str, widths: dict[str, int], **scores: float) -> None:
    """A test that has answered with boxes of so many of the true 8 columns: an overlap of width / 8 on each quality."""
    folder.mkdir(exist_ok=True)
    items, tube = ("a", "b"), {"start": 2, "stop": 6}
    shown = {"HQ": "HQ", "LQ": "defocus:1"}
    truth = [
        {"item_id": item, "conditions": [*shown.values()], **tube, "boxes": [[4, 4, 12, 12]] * 4} for item in items
    ]
    said = [
        {"item_id": item, "condition": shown[quality], **tube, "boxes": [[4, 4, 4 + width, 12]] * 4}
        for item in items
        for quality, width in widths.items()
    ]
    (folder / "ground_truth.json").write_text(render_ground_truth("MiniSTVG", "test", truth))
    (folder / "predictions.json").write_text(render_predictions(method, said))
    points = {"m_tIoU": 100.0, "vIoU@0.3": 0.0, "vIoU@0.5": 0.0}
    metrics = {f"{view}/{name}": value for view in widths for name, value in points.items()}
    metrics |= {f"{view}/m_vIoU": 100 * width / 8 for view, width in widths.items()} | scores
    samples = [
        {"item_id": item, "quality": quality, "degradation": None if quality == "HQ" else condition}
        for item in items
        for quality, condition in shown.items()
    ]
    written = write_run(folder / "new", method, 0.0, metrics=metrics, samples=samples)
    written.replace(folder / "results.json")
    written.parent.rmdir()


def test_the_was_and_its_interval_are_relative_to_one_baseline_and_the_card_says_which(
    run: Path, tmp_path: Path
) -> None:
    tuned, base = Path(shutil.copytree(run, tmp_path / "tuned")), tmp_path / "base"
    write_answers(tuned, "NullSpaceTuning", {"HQ": 6, "LQ": 4}, **{"WAS/m_vIoU": 99.0})
    write_answers(base, "ZeroShot", {"HQ": 7, "LQ": 2})

    def card(*options: str) -> str:
        assert share([str(tuned), "user/night", "--output", str(tmp_path / "shared"), *options], "share") == 0
        return (tmp_path / "shared" / "README.md").read_text()

    text = card()
    assert "| WAS |  | 99.00 |" in text and "relative to the baseline that the test was given" in text
    text = card("--baseline", str(base))
    # (50 - 25) gained on LQ, less (87.5 - 75) lost on HQ.
    assert "12.50 [12.5, 12.5]" in text and "99.00" not in text
    assert "relative to the frozen grounder on the same samples (m_vIoU: HQ 87.50, LQ 25.00)" in text

    write_answers(base, "LoRA", {"HQ": 7, "LQ": 2})
    with pytest.raises(BaselineError, match="is of LoRA; the baseline of a card is the test of ZeroShot"):
        card("--baseline", str(base))
    write_answers(base, "ZeroShot", {"HQ": 7, "LQ": 2})
    content = json.loads((base / "results.json").read_text())
    for change, words in (({"benchmark_seed": 1}, "same samples"), ({"weights": "other"}, "tuned the weights")):
        (base / "results.json").write_text(json.dumps(content | change))
        (tuned / "results.json").write_text(
            json.dumps(json.loads((tuned / "results.json").read_text()) | {"weights": "mini"})
        )
        with pytest.raises(BaselineError, match=words):
            card("--baseline", str(base))


def test_a_certificate_of_another_adapter_is_not_shared_nor_left_from_before(run: Path, tmp_path: Path) -> None:
    tuned, shared = Path(shutil.copytree(run, tmp_path / "tuned")), tmp_path / "shared"
    words = [str(tuned), "user/night", "--output", str(shared)]
    own = replace(CERTIFICATE, adapter=hashlib.sha256((tuned / "adapter.safetensors").read_bytes()).hexdigest())
    (tuned / "certificate.json").write_text(to_json(own))
    assert share(words, "share") == 0
    card = (shared / "README.md").read_text()
    assert "## What is certain" in card and "user/night: each layer's own null branch" in card
    assert CERTIFICATE.run not in card and json.loads((shared / "certificate.json").read_text())["run"] == "user/night"
    (tuned / "certificate.json").write_text(to_json(CERTIFICATE))
    with pytest.raises(ValueError, match=r"certificate\.json' is of another adapter than .*; certify the run again"):
        share(words, "share")
    (tuned / "certificate.json").unlink()
    assert share(words, "share") == 0
    assert not (shared / "certificate.json").exists()


def test_files_of_others_are_not_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(FileExistsError, match=r"README\.md' is there, and `share` has not written it"):
        share([str(run), "user/night", "--output", str(tmp_path)], "share")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_what_cannot_be_shared_is_said_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    for words, kind, message in (
        (["night"], ValueError, "expected user/name"),
        (["user/night", "--baseline", str(tmp_path)], FileNotFoundError, r"results\.json' to compare with"),
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
    config = merge(config, {"trainer": {"max_epochs": -1, "max_steps": 200}})
    (other / "config.yaml").write_text(yaml.safe_dump(config))

    assert share([str(other), "user/night", "--output", str(tmp_path / "shared")], "share") == 0
    card = (tmp_path / "shared" / "README.md").read_text()
    assert 'load("weights.safetensors", adapters={"shared": "hub:user/night"}).ground(' in card
    assert "* seed: 0, steps: 200\n" in card
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
