"""Published annotations and real clips, the whole way through the command line: files, D, grounder, tubes, numbers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from datamodules.video import probe, write_video
from datamodules.vidstg.format import clean_sentence
from stvg_nst import __main__ as root_module
from stvg_nst.evaluation import load_ground_truth
from stvg_nst.results.results_file import load_results

Command = Callable[..., int]
MODEL = ("base", "model/mini", "model/mini_weights", "tuner/zero_shot")
OPTIONS = (
    "--data.init_args.expect_official_counts=false",
    "--data.init_args.resolution=96",
    "--data.init_args.eval_batch_size=8",
    "--data.init_args.num_workers=0",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    # The rich bar cannot be switched off by a flag once it is configured.
    "--trainer.callbacks=[]",
    "--trainer.callbacks+=callbacks.ResultsWriter",
    "--trainer.callbacks+=callbacks.PredictionsWriter",
)


@pytest.fixture
def stvg(monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stvg_nst", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        return root_module.main()

    return run


def counted_twice(stvg: Command, data: str, root: Path, run: Path, *options: str) -> dict[str, Any]:
    """Tests the shipped miniature, lets the evaluator count its tubes again, and returns what that says."""
    overlays = [part for name in (*MODEL, f"data/{data}") for part in ("--config", f"experiments/{name}.yaml")]
    assert stvg("test", *overlays, *OPTIONS, f"--data.init_args.root={root}", f"--run={run}", *options) == 0
    files = (run / "predictions.json", run / "ground_truth.json")
    assert stvg("evaluate", *files, "--json", run / "evaluation.json") == 0
    evaluation: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    results = load_results(run / "results.json")
    assert evaluation["protocols"].keys() == {"half_open", "cgstvg", "hcstvg", "tubedetr"}
    assert (evaluation["coverage"]["samples"], evaluation["coverage"]["missing"]) == (len(results.samples), 0)
    for name, value in results.metrics.items():
        counted = evaluation["protocols"]["half_open"]["metrics"][name]
        assert counted == pytest.approx(value, rel=1e-6, abs=1e-4), name  # results.json rounds to float32
    return evaluation


# ------------------------------------------------------------------------------------------------------- VidSTG


def smallest_items(shared: Path, number: int) -> list[dict[str, Any]]:
    """Real validation items, unchanged, of the videos that are the quickest to make up."""
    items = json.loads((shared / "vidstg" / "val_annotations.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained("stvg_nst/models/mini")

    def is_short(item: dict[str, Any]) -> bool:
        """Whether the miniature can read its sentences: it spells words that it does not know."""
        sentences = [clean_sentence(entry["description"]) for entry in (*item["captions"], *item["questions"])]
        return max(map(len, tokenizer(sentences)["input_ids"])) <= tokenizer.model_max_length

    # H.264 halves the colour resolution.
    encodable = (item for item in items if item["height"] % 2 == item["width"] % 2 == 0)
    in_order = sorted(encodable, key=lambda item: item["frame_count"] * item["height"] * item["width"])
    return list(islice(filter(is_short, in_order), number))


def corner(frame: int, size: tuple[int, int]) -> tuple[int, int]:
    """Upper left corner (y, x) of what moves in the made-up videos; it is half as high and wide as the frame."""
    return frame % (size[0] // 2), 2 * frame % (size[1] // 2)


def moving_patch(num_frames: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    patch = np.random.default_rng(0).integers(0, 256, (size[0] // 2, size[1] // 2, 3), dtype=np.uint8)
    for index in range(num_frames):
        frame = np.full((*size, 3), 90, np.uint8)
        y, x = corner(index, size)
        frame[y : y + patch.shape[0], x : x + patch.shape[1]] = patch
        yield frame


def lay_out(root: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Sentences, trajectories and videos as VidSTG's and VidOR's archives unpack them; a size shares its longest."""
    (root / "sent_annos").mkdir(parents=True)
    (root / "sent_annos" / "val_annotations.json").write_text(json.dumps(items))
    for folder in ("bbox_annos/0001", "videos/0001"):
        (root / folder).mkdir(parents=True)
    lengths: dict[tuple[int, int], int] = {}
    for item in items:
        size = item["height"], item["width"]
        lengths[size] = max(lengths.get(size, 0), item["frame_count"])
    for size, length in lengths.items():
        write_video(root / f"{size}.mp4", moving_patch(length, size), 25)
    for item in {item["vid"]: item for item in items}.values():
        size = item["height"], item["width"]
        same = [other for other in items if other["vid"] == item["vid"]]
        targets = sorted({entry["tid"] for other in same for entry in other["subject/objects"]})
        content = {name: item[name] for name in ("frame_count", "fps", "width", "height")}
        content["trajectories"] = [_objects(frame, targets, size) for frame in range(item["frame_count"])]
        (root / "bbox_annos" / "0001" / f"{item['vid']}.json").write_text(json.dumps(content))
        os.link(root / f"{size}.mp4", root / "videos" / "0001" / f"{item['vid']}.mp4")
    return root


def _objects(frame: int, targets: Sequence[int], size: tuple[int, int]) -> list[dict[str, Any]]:
    y, x = corner(frame, size)
    box = {"xmin": x, "ymin": y, "xmax": x + size[1] // 2, "ymax": y + size[0] // 2}
    return [{"tid": target, "bbox": box} for target in targets]


def check_vidstg(stvg: Command, items: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    root = lay_out(folder / "vidstg", items)
    options = ("validation=official", "evaluation_split=val", "eval_num_frames=8")
    evaluation = counted_twice(
        stvg, "vidstg", root, folder / "run", *(f"--data.init_args.{option}" for option in options)
    )
    captions, questions = (sum(len(item[name]) for item in items) for name in ("captions", "questions"))
    truth = load_ground_truth(folder / "run" / "ground_truth.json")
    assert (truth.dataset, truth.split, len(truth.tubes)) == ("vidstg", "val", captions + questions)
    assert truth.sentence_types.count("declarative") == captions
    assert evaluation["coverage"]["samples"] == 2 * (captions + questions)
    spans = {(item["vid"], *(item["temporal_gt"][end] for end in ("begin_fid", "end_fid"))) for item in items}
    videos = [item_id.partition("/")[0] for item_id in truth.item_ids]
    assert set(zip(videos, truth.tubes.start.tolist(), truth.tubes.stop.tolist(), strict=True)) == spans
    return evaluation


def test_a_handful_of_real_sentences_from_files_to_numbers(stvg: Command, shared: Path, tmp_path: Path) -> None:
    check_vidstg(stvg, smallest_items(shared, 3), tmp_path)


@pytest.mark.slow
def test_hundreds_of_real_items_from_files_to_numbers(
    stvg: Command, shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = smallest_items(shared, 200)
    evaluation = check_vidstg(stvg, items, tmp_path)
    kinds = {"motion_blur", "defocus", "low_light", "resolution"}
    metrics = evaluation["protocols"]["half_open"]["metrics"]
    assert {name.partition("/")[0] for name in metrics} >= {*kinds, "severity-1", "severity-5", "LQ-mean", "LQ-worst"}
    capsys.readouterr()
    assert stvg("data", "verify", "vidstg", tmp_path / "vidstg", "--split", "val", "--subset", "--workers", "1") == 0
    assert f"{len({item['vid'] for item in items})} videos" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- real pixels


@pytest.fixture
def real_clips(shared: Path, tmp_path: Path) -> Path:
    """The two real clips in one test split: as they lie, one is of the training split."""
    source = shared / "real_clips" / "hc-stvg"
    if not source.is_dir():
        pytest.skip("no real clips in the shared folder")
    root, annotations = tmp_path / "hc-stvg", Path("annos/hcstvg_v1")
    (root / annotations).mkdir(parents=True)
    items = [json.loads((source / annotations / f"{split}.json").read_text()) for split in ("train", "test")]
    (root / annotations / "test.json").write_text(json.dumps(items[0] | items[1]))
    (root / "v1_video").symlink_to(source / "v1_video")
    return root


@pytest.mark.slow
def test_the_real_clips_through_every_command(
    stvg: Command, real_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = ("hcstvg_v1", real_clips, "--split", "test")
    assert stvg("data", "verify", *look, "--subset", "--workers", "1") == 0
    assert "2 sentences, 2 videos (2 decoded now): 0 faults" in capsys.readouterr().out
    assert stvg("data", "stats", *look) == 0
    assert "box size" in capsys.readouterr().out

    source, target = real_clips / "v1_video" / "crossing.mp4", tmp_path / "blurred.mp4"
    assert stvg("degrade", source, target, "--kind", "motion_blur", "--severity", "3") == 0
    assert probe(target).size == probe(source).size and probe(target).num_frames == probe(source).num_frames

    matrix = "--data.init_args.evaluation_conditions=matrix"
    evaluation = counted_twice(stvg, "hcstvg_v1", real_clips, tmp_path / "matrix", matrix)
    assert evaluation["coverage"]["samples"] == 2 * 21
    assert {"defocus:5/m_vIoU", "LQ-relative/m_tIoU"} <= evaluation["protocols"]["cgstvg"]["metrics"].keys()
    capsys.readouterr()
    assert stvg("report", tmp_path / "matrix", "--by-degradation") == 0
    shown = capsys.readouterr().out
    assert "hcstvg_v1 test, benchmark seed 0, shown in matrix, m_vIoU by degradation" in shown
    assert "a kind at one severity is 2 samples" in shown

    # The benchmark's own LQ clips, from files as well as on the fly.
    assert stvg("degrade", "dataset", *look[:2], tmp_path / "lq", "--split", "test", "--workers", "1") == 0
    for name, options in (("fly", ()), ("files", (f"--data.init_args.degraded={tmp_path / 'lq'}",))):
        counted_twice(stvg, "hcstvg_v1", real_clips, tmp_path / name, *options)
    fly, files = ((tmp_path / name / "predictions.json").read_bytes() for name in ("fly", "files"))
    assert fly == files
