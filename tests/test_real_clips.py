"""CG-STVG at full size on real pixels: decoding, degradation, tuning, two passes, metrics, at 64 x 89 and 64 x 96; and
TubeDETR on clips as it is shown them.

Weights are random, drawn from the seed: this is about the way, not about the numbers. The clips lie beside the project;
without them these tests skip.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from datamodules import HCSTVG
from datamodules.clips import collate
from datamodules.degradation.kinds import DEGRADATIONS, SEVERITIES, fixed_degradation
from datamodules.quality import Draw
from datamodules.video import probe
from stvg_nst import __main__ as root
from stvg_nst.commands.pretrain import vocabulary
from stvg_nst.commands.weights import FULL_SIZE, weights_parser
from stvg_nst.evaluation import evaluate, load_ground_truth, load_predictions
from stvg_nst.inference import join_passes, split_passes
from stvg_nst.module import GroundingModule
from stvg_nst.prediction import load
from stvg_nst.results.results_file import load_results
from stvg_nst.tuning import NullSpaceTuning

pytestmark = pytest.mark.slow

OVERLAYS = ("base", "data/hcstvg_v1", "model/cgstvg")
OF_TUBEDETR = ("base", "data/hcstvg_v1_tubedetr", "model/tubedetr")
HEIGHT = 64
RATE = 0.4  # frames a second, of clips that count as 20 seconds long


@pytest.fixture(scope="module")
def clips(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both clips in the layout of HC-STVG v1: to test on, and under the names of four films each to train on."""
    source = shared / "real_clips" / "hc-stvg"
    if not source.is_dir():
        pytest.skip("no real clips in the shared folder")
    folder = tmp_path_factory.mktemp("hc-stvg")
    annotations, videos = folder / "annos" / "hcstvg_v1", folder / "v1_video"
    annotations.mkdir(parents=True)
    videos.mkdir()
    items = {}
    for split in ("train", "test"):
        items |= json.loads((source / "annos" / "hcstvg_v1" / f"{split}.json").read_text())
    films = {f"{film}_{name}": item for film in range(4) for name, item in items.items()}
    for name in (*items, *films):
        (videos / name).symlink_to(source / "v1_video" / name.partition("_")[2 if name in films else 0])
    (annotations / "test.json").write_text(json.dumps(items))
    (annotations / "train.json").write_text(json.dumps(films))
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("roberta")
    assert vocabulary([str(folder), "--roberta-base"], "vocabulary") == 0
    return folder


@pytest.fixture
def stvg(clips: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(command: str, tuner: str, *arguments: str, base: Sequence[str] = OVERLAYS) -> int:
        overlays = [f"--config=experiments/{name}.yaml" for name in (*base, f"tuner/{tuner}")]
        sampled = {"frame_rate": RATE, "eval_frame_rate": RATE} if base is OVERLAYS else {"sampling.rate": RATE}
        data = {
            "root": clips,
            "expect_official_counts": "false",
            "held_out": 0.5,
            "resolution": HEIGHT,
            "num_workers": 0,
            **sampled,
        }
        options = [f"--data.init_args.{name}={value}" for name, value in data.items()]
        source = f"--model.grounder.init_args.text.init_args.source={text}"
        line = [command, *overlays, *options, source, "--model.weights=random", "--trainer.accelerator=cpu", *arguments]
        monkeypatch.setattr(sys, "argv", ["stvg_nst", *line])
        return root.main()

    return run


def test_one_step_of_tuning_and_a_test_in_two_passes(
    stvg: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zero_shot, nst = tmp_path / "zero-shot", tmp_path / "nst"
    two_pass = ("--model.inference=two_pass",)
    assert stvg("test", "zero_shot", f"--run={zero_shot}", *two_pass) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "hcstvg_v1 test, benchmark seed 0, RANDOM WEIGHTS" in shown and "vIoU@0.3" in shown

    step = ("--trainer.max_steps=1", "--trainer.limit_val_batches=1")
    assert stvg("fit", "nst", f"--run={nst}", *two_pass, *step) == 0
    adapter = load_file(nst / "adapter.safetensors")
    assert any(name.endswith("row_head.outer.weight") and value.abs().max() > 0 for name, value in adapter.items())

    capsys.readouterr()
    trained = (f"--model.adapter={nst}/adapter.safetensors", f"--model.baseline={zero_shot}/results.json")
    assert stvg("test", "nst", f"--run={nst}", *two_pass, *trained) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "RANDOM WEIGHTS" in shown and "WAS" in shown
    results = load_results(nst / "results.json")
    assert results.random_weights and len(results.samples) == 2 * 2
    assert all(math.isfinite(value) for value in results.metrics.values())
    assert (nst / "tubes.png").exists() and len(json.loads((nst / "predictions.json").read_text())["tubes"]) == 4


def test_tubedetr_is_tested_by_the_protocol_of_its_authors(
    stvg: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "tubedetr"
    assert stvg("test", "zero_shot", f"--run={run}", base=OF_TUBEDETR) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "hcstvg_v1, convention tubedetr test, benchmark seed 0, RANDOM WEIGHTS" in shown
    results = load_results(run / "results.json")
    assert len(results.samples) == 2 * 2 and all(math.isfinite(value) for value in results.metrics.values())
    truth = load_ground_truth(run / "ground_truth.json")
    scored = evaluate(load_predictions(run / "predictions.json"), truth, protocols=["tubedetr"])
    assert 0 <= scored.protocols["tubedetr"].metrics["HQ/m_vIoU"] <= 100
    frames = [ids for ids in truth.sampled_frames if ids is not None]
    assert [len(ids) for ids in frames] == [8, 8] and all(ids[0] == 0 for ids in frames)


def test_every_degradation_passes_the_tuned_model_to_the_metrics(clips: Path, text: Path) -> None:
    data = HCSTVG(clips, expect_official_counts=False, resolution=HEIGHT, eval_frame_rate=RATE / 2, num_workers=0)
    data.setup("test")
    dataset = data.test_dataloader().dataset
    module = tuned_full_size(text)
    for index, record in enumerate(data.records["test"]):
        clean = dataset[Draw(index, None)]
        degradations = [fixed_degradation(0, record.clip_id, *kind) for kind in product(DEGRADATIONS, SEVERITIES)]
        for clip in (clean, *(dataset[Draw(index, degradation)] for degradation in degradations)):
            passes = split_passes(collate([clip]), module.inference)
            with torch.no_grad():
                outputs = [module(part) for part in passes]
            tubes = join_passes(outputs, (clip.info,), module.inference)
            # Only the last of a clip's conditions of one quality would be kept under one item's name.
            info = replace(clip.info, item_id=f"{record.item_id} {clip.info.degradation}")
            module.metrics.update(tubes, (info,))
            if clip is not clean:
                assert (clip.frames - clean.frames).abs().mean() > 0.01
    metrics = module.metrics.compute()
    assert len(module.metrics.samples()) == 2 * (1 + len(DEGRADATIONS) * len(SEVERITIES))
    assert all(math.isfinite(value) for value in metrics.values()) and metrics["LQ/m_tIoU"] > 0


def tuned_full_size(text: Path) -> GroundingModule:
    parser = weights_parser("test", "Full size.")
    source = f"--model.grounder.init_args.text.init_args.source={text}"
    torch.manual_seed(0)
    grounder = parser.instantiate(parser.parse_args([f"--config={FULL_SIZE}", source])).model.grounder
    tuner = NullSpaceTuning(targets=["*_decoder.layers.*.ffn.linear2"])
    return GroundingModule(grounder, tuner, weights="random", inference="two_pass").eval()


@pytest.mark.parametrize("inference", ["single_pass", "two_pass"])
def test_a_persons_video_is_answered_as_it_was_tested(
    stvg: Callable[..., int], clips: Path, tmp_path: Path, inference: str
) -> None:
    """From the folder of the run, and the film's file: the boxes of `test`, to 1e-5 of the frame."""
    run = tmp_path / "zero-shot"
    conditions = "--data.init_args.evaluation_conditions=[HQ]"
    assert stvg("test", "zero_shot", f"--run={run}", f"--model.inference={inference}", conditions) == 0
    predictions = load_predictions(run / "predictions.json")
    grounder = load(run, device="cpu")
    assert "RANDOM WEIGHTS" in str(grounder) and grounder.viewing.frame_rate == RATE
    data = HCSTVG(clips, expect_official_counts=False, num_workers=0)
    data.setup("test")
    assert len(data.records["test"]) == 2
    for record in data.records["test"]:
        # The rate of the annotations, by which `test` samples: clips of this data set count as 20 seconds long.
        # They leave out the last frame.
        stop = record.segment[1] / record.fps
        answer = grounder.ground(record.video, record.query, stop=stop, fps=record.fps)
        tested = predictions.tubes.take(np.array([predictions.item_ids.index(record.item_id)]))
        assert (answer.tube.start, answer.tube.stop) == (tested.start[0], tested.stop[0])
        error = np.abs(answer.boxes.numpy() - tested.boxes).max() / max(record.size)
        assert error <= 1e-5, error
        answer.draw(tmp_path / "out.mp4")
        assert probe(tmp_path / "out.mp4").num_frames == record.segment[1]
