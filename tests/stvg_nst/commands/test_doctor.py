"""`doctor`: what a machine is said to be able to do, and what an experiment lacks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules import MiniSTVG
from datamodules.annotated.verify import verify
from datamodules.own_clips.source import SPLITS, OwnClipsSource
from stvg_nst import __main__ as root_module
from stvg_nst.commands import gpus, missing
from stvg_nst.commands.missing import examine_experiment
from stvg_nst.configuration import ConfigurationError
from stvg_nst.machine import disk_room, health
from stvg_nst.machine.systems import refuse_other_systems
from stvg_nst.types import BackboneFeatures, Batch
from tests.datamodules.published import hcstvg_item, own_line, write_clip, write_json

MINI = [f"experiments/{name}.yaml" for name in ("base", "data/mini", "model/mini", "model/mini_weights")]


@pytest.fixture
def stvg(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stvg_nst", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        return root_module.main()

    return run


def test_the_embedded_benchmark_lacks_nothing(stvg: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert stvg("doctor", *MINI) == 0
    said = capsys.readouterr().out
    assert "cores" in said and "MiniSTVG in 'data'" in said and "nothing is lacking" in said


def test_what_an_experiment_lacks_is_named_with_the_way_to_get_it(tmp_path: Path) -> None:
    write_json(tmp_path / "annos" / "hcstvg_v1" / "test.json", {"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    write_clip(tmp_path / "v1_video" / "a.mp4")
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        f"data: {{class_path: datamodules.HCSTVG, init_args: {{root: '{tmp_path}', features: '{tmp_path / 'f'}'}}}}\n"
        "model:\n"
        "  weights: nowhere.safetensors\n"
        "  grounder:\n"
        "    class_path: stvg_nst.models.CGSTVG\n"
        "    init_args: {text: {class_path: T, init_args: {source: no/such-encoder}}}\n"
    )
    found = examine_experiment([overlay])
    lacking = {finding.about: f"{finding.said}; {finding.advice}" for finding in found if finding.verdict == "lacking"}
    assert [*lacking] == ["hcstvg_v1, train", "hcstvg_v1, test", "features", "weights", "tokenizer"]
    assert "no annotations" in lacking["hcstvg_v1, train"] and "docs/data.md" in lacking["hcstvg_v1, train"]
    assert "2 sentences, 1 of 2 videos" in lacking["hcstvg_v1, test"] and "b.mp4" in lacking["hcstvg_v1, test"]
    assert "cache features" in lacking["features"] and "docs/weights.md" in lacking["weights"]
    assert "data verify hcstvg_v1" in next(f.advice for f in found if f.verdict == "note")


def test_the_manifest_that_an_experiment_names_is_looked_for(tmp_path: Path) -> None:
    named, overlay = tmp_path / "elsewhere.json", tmp_path / "overlay.yaml"
    overlay.write_text(
        f"data: {{class_path: datamodules.HCSTVG, init_args: {{root: '{tmp_path}', manifest: '{named}'}}}}\n"
    )
    (finding,) = (found for found in examine_experiment([overlay]) if "nobody has looked" in found.said)
    assert finding.verdict == "lacking" and f"--manifest {named}`" in finding.advice
    named.touch()
    assert not any("nobody has looked" in found.said for found in examine_experiment([overlay]))


@pytest.mark.slow  # it decodes videos in processes of their own
def test_every_split_and_every_line_of_own_clips_is_looked_at(tmp_path: Path) -> None:
    root = tmp_path
    lines = [*(own_line(f"{split}.mp4", split=split) for split in SPLITS), own_line("test.mp4", split="val")]
    (root / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for split in SPLITS:
        write_clip(root / f"{split}.mp4")
    verify(OwnClipsSource(root), SPLITS, root / "own_clips.manifest.json", workers=1)
    (root / "val.mp4").unlink()
    overlay = root / "own.yaml"
    overlay.write_text(f"data: {{class_path: datamodules.OwnClips, init_args: {{root: '{root}'}}}}\n")
    found = {finding.about: finding for finding in examine_experiment([overlay]) if finding.verdict == "lacking"}
    assert (
        "1 faulty sentences, the first: " in found["own_clips, val"].said and "val.mp4" in found["own_clips, val"].said
    )
    assert "'test', as another line about 'test.mp4' says" in found["own_clips, train"].said
    assert found.keys() == {"own_clips, train", "own_clips, val", "model"}


def test_own_clips_without_a_line_for_the_test_lack_nothing_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staged: list[str] = []
    monkeypatch.setattr(missing, "examine_caches", lambda pairs: staged.extend(stage for _, stage in pairs) or ())
    overlay = tmp_path / "own.yaml"
    overlay.write_text(f"data: {{class_path: datamodules.OwnClips, init_args: {{root: '{tmp_path}'}}}}\n")
    for splits, stages in ((("train", "val"), ["fit"]), (SPLITS, ["fit", "test"])):
        lines = [{"video": f"{split}.mp4", "sentence": "who waves?", "split": split} for split in splits]
        (tmp_path / "annotations.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        staged.clear()
        examine_experiment([overlay])
        assert staged == stages


def test_an_adapter_may_be_a_folder_or_lie_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").touch()
    overlay = tmp_path / "overlay.yaml"
    for adapter, verdict in (("hub:user/night", "note"), (tmp_path, "ok"), (tmp_path / "none", "lacking")):
        overlay.write_text(f"model: {{adapter: '{adapter}', grounder: {{class_path: stvg_nst.models.CGSTVG}}}}\n")
        assert {f.about: f.verdict for f in examine_experiment([overlay])}["adapter"] == verdict


def test_a_study_is_an_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = examine_experiment([Path("experiments/ablate/gate.yaml")])
    assert "data" in {finding.about for finding in found} and "weights" in {finding.about for finding in found}
    with pytest.raises(ConfigurationError, match=r"gate\.yaml' is a study and 'experiments/base\.yaml' an overlay"):
        examine_experiment([Path("experiments/base.yaml"), Path("experiments/ablate/gate.yaml")])


def test_a_study_of_its_baseline_alone_is_one_too(tmp_path: Path) -> None:
    study = {
        "title": "published",
        "minutes_per_run": 1,
        "overlays": [f"experiments/{part}.yaml" for part in ("base", "data/mini", "model/mini")],
        "baseline": ["experiments/tuner/zero_shot.yaml"],
        "published": {"source": "a", "protocol": "cgstvg", "tolerance": 1, "numbers": {}, "otherwise": []},
    }
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    assert {finding.verdict for finding in examine_experiment([tmp_path / "study.yaml"])} <= {"ok", "note"}


def test_an_overlay_that_changes_data_names_none(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text("data: {init_args: {test_clips: 3}}\n")
    (data, *_) = examine_experiment([tmp_path / "few.yaml"])
    assert (data.about, data.verdict) == ("data", "lacking")


@pytest.mark.parametrize("data", ["HCSTVG", "{class_path: HCSTVG}", "{class_path: datamodules.HCSTVG}"])
def test_a_data_set_may_be_named_by_its_class_alone(tmp_path: Path, data: str) -> None:
    (tmp_path / "short.yaml").write_text(f"data: {data}\nmodel: {{grounder: CGSTVG, tuner: LoRA}}\n")
    about = [finding.about for finding in examine_experiment([tmp_path / "short.yaml"])]
    assert "hcstvg_v1" in about and "model" not in about


@pytest.mark.parametrize("name", ["datamodules.HCSTVGG", "HCSTVGG", "nowhere.Streets", "datamodules.base"])
def test_a_data_set_that_is_none_is_lacking(tmp_path: Path, name: str) -> None:
    (tmp_path / "wrong.yaml").write_text(f"data: {{class_path: {name}}}\n")
    (data, *_) = examine_experiment([tmp_path / "wrong.yaml"])
    assert (data.about, data.verdict) == ("data", "lacking") and f"there is no data module '{name}'" in data.said


def encode(batch: Batch) -> BackboneFeatures:
    maps = torch.zeros(len(batch), 16, 1, 1, 1)
    return BackboneFeatures(maps, maps, torch.ones(len(batch), 1, 1, dtype=torch.bool))


def test_a_cache_that_lacks_what_one_point_shows_is_lacking(tmp_path: Path) -> None:
    shown = {"training_clips": 1, "val_clips": 1, "test_clips": 1, "variants": 1, "batch_size": 1, "num_workers": 0}
    data = MiniSTVG(tmp_path, features=tmp_path / "features", **shown)
    data.prepare_data()
    for split in ("train", "val", "test"):
        data.build_cache(split, encode, "backbones")
    shown |= {"root": str(tmp_path), "features": str(tmp_path / "features")}
    content = {"class_path": "datamodules.MiniSTVG", "init_args": shown}
    (tmp_path / "base.yaml").write_text(json.dumps({"data": content, "model": {"grounder": {}}, "trainer": {}}))
    study = {"title": "clips", "seeds": [0], "minutes_per_run": 1, "overlays": [str(tmp_path / "base.yaml")]}
    study |= {"baseline": ["experiments/tuner/zero_shot.yaml"], "tuner": ["experiments/tuner/lora.yaml"]}

    def lacking(points: dict[str, dict[str, int]]) -> list[tuple[str, str]]:
        (tmp_path / "study.yaml").write_text(json.dumps(study | {"points": points}))
        found = examine_experiment([tmp_path / "study.yaml"])
        return [(finding.about, finding.said) for finding in found if finding.verdict == "lacking"]

    assert lacking({"one": {}}) == []
    ((about, said),) = lacking({"one": {}, "two": {"data.init_args.training_clips": 2}, "rate": {"model.twin": 1}})
    assert about == "caches" and "holds 2 versions of clips, but lacks 2 that this run shows" in said
    misspelt = lacking({"one": {"data.init_args.variant": 2}})
    assert misspelt and all(about == "data" and "'variant' is not accepted" in said for about, said in misspelt)


@pytest.mark.parametrize(
    ("driver", "built", "visible", "message"),
    [
        (None, "13.0", "0", "there is no NVIDIA driver"),
        ("12.4", None, "0", "built without CUDA, though there is a driver for 12.4; install a build"),
        ("13.0", "13.0", "", "CUDA_VISIBLE_DEVICES hides all GPUs"),
        ("12.4", "13.0", "0", "the driver is for CUDA 12.4, and PyTorch is built for 13.0; renew the driver"),
        ("13.2", "13.0", "0", "finds no device that it can use under a driver for 13.2"),
    ],
)
def test_why_a_run_would_be_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, built: str | None, visible: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(gpus, "_driver_cuda", lambda: driver)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (finding,) = gpus.examine_gpus()
    assert message in finding.said and finding.verdict == "note"


@pytest.mark.parametrize(("major", "verdict"), [(9, "ok"), (6, "lacking")])
def test_a_gpu_without_code_for_it_is_lacking(monkeypatch: pytest.MonkeyPatch, major: int, verdict: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    card = SimpleNamespace(name="a card", major=major, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (7 * 10**9, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90"])
    *_, finding = gpus.examine_gpus()
    assert finding.verdict == verdict and "a card, 7.0 GB of 8.0 GB free" in finding.said


def test_other_releases_than_the_tested_ones_are_told(tmp_path: Path) -> None:
    pins = tmp_path / "constraints.txt"
    pins.write_text(f"# tested\ntorch=={torch.__version__.partition('+')[0]}\nav==1.2.3\nclick==0.0.1\n")
    (finding,) = health.examine_packages(pins)
    assert "av " in finding.said and "tested 1.2.3" in finding.said and finding.verdict == "note"
    assert "tested 0.0.1" not in finding.said, "click changes no number"


def test_little_shared_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_room.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    found = {finding.about: finding for finding in health.examine_machine(tmp_path)}
    assert found["/dev/shm"].verdict == "note" and "--shm-size" in found["/dev/shm"].advice


def test_windows_is_refused_in_one_line(
    stvg: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_other_systems("linux")
    refuse_other_systems("darwin")
    monkeypatch.setattr(root_module, "refuse_other_systems", lambda: refuse_other_systems("win32"))
    assert stvg("doctor") == 1
    assert "error: stvg_nst runs on Linux and macOS, and this is Windows" in capsys.readouterr().err
