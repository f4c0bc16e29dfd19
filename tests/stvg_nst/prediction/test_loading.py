"""What `load` takes: a name, a run's folder, a weights file; and what it refuses in one sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import stvg_nst
from stvg_nst.configuration import merge, read_yaml
from stvg_nst.models.description import METADATA_KEY, DescriptionError, ModelDescription, Viewing
from stvg_nst.models.weights import save_weights
from stvg_nst.prediction import VideoGrounder, load
from stvg_nst.prediction.loading import SHIPPED, find_source
from tests.stvg_nst.prediction.adapters import SENTENCE

RANDOM = "seed_everything: 0\nmodel: {grounder: {}, weights: random, tuner: {class_path: a.ZeroShot}}\n"
REPOSITORY = Path(__file__).resolve().parents[3]


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, time; t = time.time(); import stvg_nst; print(time.time() - t); print(*sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    seconds, modules = said.stdout.splitlines()
    assert not {"torch", "numpy", "lightning", "av"} & {*modules.split()}
    assert float(seconds) < 1


def test_the_package_offers_what_it_says() -> None:
    assert stvg_nst.load is load and {"load", "Answer", "VideoGrounder"} <= {*dir(stvg_nst)}
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        stvg_nst.lod  # noqa: B018


# --- the shipped miniatures -------------------------------------------------------------------------------------------


def test_the_miniature_says_how_it_is_shown_a_clip(mini: VideoGrounder) -> None:
    assert mini.viewing == Viewing(16, None, 128, True, "single_pass", 4.0)
    description = find_source("mini").description
    assert description.grounder["init_args"]["actioness_threshold"] == 0.5
    overlay = read_yaml(REPOSITORY / "experiments" / "model" / "mini.yaml")["model"]["grounder"]
    assert merge(description.grounder, overlay)["init_args"].keys() == description.grounder["init_args"].keys()
    assert str(mini) == "mini, frozen"


@pytest.mark.parametrize("name", SHIPPED)
def test_it_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(name, device="cpu").ground(clip, SENTENCE).confidence > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_its_card_is_of_its_weights(name: str) -> None:
    weights = SHIPPED[name] / "model.safetensors"
    card = (SHIPPED[name] / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    assert f"{weights.stat().st_size:,} bytes" in card


def test_an_adapter_that_is_shipped_beside_it_answers(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for file in SHIPPED["mini"].iterdir():
        if file.name != "adapter.safetensors":
            (tmp_path / file.name).symlink_to(file)
    monkeypatch.setitem(SHIPPED, "mini", tmp_path)  # type: ignore[arg-type]
    assert load("mini", device="cpu").adapter is None
    (tmp_path / "adapter.safetensors").symlink_to(adapter)
    with caplog.at_level("INFO"):
        grounder = load("mini", device="cpu")
    assert grounder.adapter is not None and str(grounder).endswith("(NullSpaceTuning)")
    assert f"loaded {grounder}, on cpu in float32" in caplog.text


# --- a run's folder ---------------------------------------------------------------------------------------------------


def run_folder(folder: Path, *, name: str = "config.yaml", data: Path | None = None, **model: Any) -> Path:
    """As a run leaves it: every overlay in one file, options written out."""
    overlays = ("base", "data/mini_cached", "model/mini", "model/mini_weights", "tuner/nst")
    config: Any = {}
    for overlay in overlays:
        config = merge(config, read_yaml(REPOSITORY / "experiments" / f"{overlay}.yaml"))
    config = merge(config, {"model": {**model}, "data": {"init_args": {"num_frames": 8, "features": "gone/features"}}})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(config))
    return folder


def test_a_run_answers_with_its_adapter_as_it_was_tested(
    mini: VideoGrounder, clip: Path, adapter: Path, tmp_path: Path
) -> None:
    run = run_folder(tmp_path / "night")
    (run / "adapter.safetensors").write_bytes(adapter.read_bytes())
    grounder = load(run, device="cpu")
    assert grounder.viewing == replace(mini.viewing, num_frames=8)
    assert grounder.adapter == "night"
    expected = replace(mini, viewing=grounder.viewing).with_adapter("night", adapter).ground(clip, SENTENCE)
    assert torch.equal(grounder.ground(clip, SENTENCE).boxes, expected.boxes)
    run_folder(run, name="test.yaml", inference="two_pass")
    assert load(run, device="cpu").viewing.inference == "two_pass", "a test says how the run was measured"


def test_a_zero_shot_run_answers_frozen(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "zero-shot", name="test.yaml", tuner={"class_path": "stvg_nst.tuning.ZeroShot"})
    assert load(run, device="cpu").adapter is None


def test_a_tests_adapter_may_lie_elsewhere(tmp_path: Path, adapter: Path) -> None:
    run = run_folder(tmp_path / "tested", name="test.yaml", adapter=str(adapter))
    assert load(run, device="cpu").network.method == "NullSpaceTuning"


def test_random_weights_are_those_of_the_run_and_say_so(tmp_path: Path, clip: Path) -> None:
    zero_shot = {"class_path": "stvg_nst.tuning.ZeroShot"}
    run = run_folder(tmp_path / "random", name="test.yaml", weights="random", tuner=zero_shot)
    answers = [load(run, device="cpu").ground(clip, SENTENCE) for _ in range(2)]
    assert torch.equal(answers[0].boxes, answers[1].boxes)
    assert "RANDOM WEIGHTS" in answers[0].model


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"is no run's folder: there is neither test\.yaml nor config\.yaml in it"),
        (("config.yaml",), "is not finished: there is no .*adapter.safetensors'; go on with its fit first"),
    ],
)
def test_a_folder_that_is_no_finished_run_is_refused(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for file in files:
        run_folder(run, name=file)
    with pytest.raises(FileNotFoundError, match=message):
        load(run)


# --- a weights file ---------------------------------------------------------------------------------------------------


def test_a_file_that_describes_its_network_answers(mini: VideoGrounder, clip: Path, tmp_path: Path) -> None:
    description = find_source("mini").description
    file = tmp_path / "own.safetensors"
    save_weights(
        file, mini.frozen.grounder, description=replace(description, viewing=replace(description.viewing, num_frames=8))
    )
    grounder = load(file, device="cpu")
    assert grounder.viewing.num_frames == 8
    expected = replace(mini, viewing=grounder.viewing).ground(clip, SENTENCE)
    assert torch.equal(grounder.ground(clip, SENTENCE).boxes, expected.boxes)


def test_weights_that_say_nothing_of_their_network_are_refused(mini: VideoGrounder, tmp_path: Path) -> None:
    save_weights(tmp_path / "mute.safetensors", mini.frozen.grounder)
    with pytest.raises(DescriptionError, match=r"mute\.safetensors' holds weights, but does not say of which network"):
        load(tmp_path / "mute.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(DescriptionError, match="is no readable safetensors file"):
        load(tmp_path / "text")


def described(path: Path, **changes: Any) -> Path:
    content = json.loads(find_source("mini").description.to_metadata()[METADATA_KEY])
    save_file({"a": torch.zeros(1)}, path, metadata={METADATA_KEY: json.dumps({**content, **changes})})
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 9}, "describes its network in format 9, this version reads 1"),
        ({"viewing": {"num_frames": 3}}, "describes its network wrongly"),
        (
            {"grounder": {"class_path": "os.system"}},
            r"asks for os\.system, and a file may name classes of stvg_nst\.models only",
        ),
        (
            {"grounder": {"class_path": "stvg_nst.models.CGSTVG", "init_args": {"text": {"class_path": "evil.Text"}}}},
            r"asks for evil\.Text",
        ),
    ],
)
def test_a_file_that_asks_for_something_else_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(DescriptionError, match=message):
        load(described(tmp_path / "file.safetensors", **changes))


def test_a_description_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={METADATA_KEY: '{"format_version": 1, "grou'})
    with pytest.raises(DescriptionError, match="is damaged: what it says of its network is no JSON"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "does not say which network was run on which data; give the folder of a fit or of a test"),
        ("model:\ndata:\nseed_everything: 0", "does not say which network was run"),
        (
            f"{RANDOM}data: {{class_path: datamodules.MiniSTVG, init_args: {{nonsense: 3}}}}",
            "'nonsense' is not accepted",
        ),
        (f"{RANDOM}data: {{class_path: datamodules.No}}", "asks for what this version does not know"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "test.yaml").write_text(text)
    with pytest.raises(DescriptionError, match=message):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_rate": 3.2}, "by a number of frames or by a rate, got 16 and 3.2"),
        ({"num_frames": None}, "got None and None"),
        ({"resolution": 0}, "resolution must be positive, got 0"),
        ({"clip_seconds": float("inf")}, "clip_seconds must be positive, got inf"),
        ({"inference": "three_pass"}, "inference must be one of"),
        ({"at_most": 200}, "at_most 200 limits the frames at a rate, but none is given"),
    ],
)
def test_a_viewing_that_cannot_be_is_refused(mini: VideoGrounder, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(mini.viewing, **changes)


def test_what_is_written_is_read(mini: VideoGrounder) -> None:
    of_cgstvg = Viewing(None, 3.2, 420, False, "two_pass", 20.0)
    of_tubedetr = Viewing(None, 5.0, 352, False, "single_pass", 20.0, at_most=200, short_side=True)
    for viewing in (mini.viewing, of_cgstvg, of_tubedetr):
        described = ModelDescription({"class_path": "stvg_nst.models.CGSTVG"}, viewing)
        assert ModelDescription.from_metadata(described.to_metadata(), "file") == described


# --- what a person may do wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"source": "maxi"},
            "expected 'mini', 'tubedetr_mini', a run's folder, a weights file or hub:user/name, and there",
        ),
        ({"device": "cuda:64"}, r"there is no GPU 'cuda:64': PyTorch finds \d+ here; give --device cpu, or auto"),
        ({"device": "gpu"}, "there is no kind of device 'gpu'; give auto, cpu or cuda:NUMBER"),
        ({"device": "meta"}, "there is no device 'meta' here; give auto, cpu or cuda:NUMBER"),
        ({"device": None}, "there is no kind of device 'None'"),
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16, got 'int8'"),
        ({"adapters": {"night": "absent.safetensors"}}, "absent"),
        ({"adapters": "night.safetensors"}, "expected adapters by the names to call them by, .*, got 'night"),
        ({"adapters": ["night.safetensors"]}, r"expected adapters by the names to call them by, .*, got \['night"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_one_line(arguments: dict[str, Any], message: str) -> None:
    began = time.monotonic()
    with pytest.raises((ValueError, OSError), match=message):
        load(**arguments)
    assert time.monotonic() - began < 60


def test_half_precision_is_that_of_mixed_precision(mini: VideoGrounder, clip: Path) -> None:
    answer = load("mini", device="cpu", dtype="bfloat16").ground(clip, SENTENCE)
    full = mini.ground(clip, SENTENCE)
    assert answer.boxes.dtype == torch.float32 and not torch.equal(answer.boxes[:1], full.boxes[:1])
