"""Degraded copies of HC-STVG and VidSTG: the pixels of files and of degrading on the fly are the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from datamodules import HCSTVG, VidSTG, annotated
from datamodules.annotated.verify import verify
from datamodules.base import STVGDataModule
from datamodules.caches.array_store import CacheError
from datamodules.degradation import dataset
from datamodules.degradation.dataset import DegradedCopy
from datamodules.degradation.files import DegradedFiles, read_manifest
from datamodules.hcstvg.source import HCSTVGSource
from datamodules.video import VideoDecodeError, probe
from datamodules.vidstg.source import VidSTGSource
from stvg_nst.machine.folder_lock import locked
from stvg_nst.types import BackboneFeatures, Batch
from tests.datamodules.published import NUM_FRAMES, hcstvg_item, vidstg_item, write_clip

ITEMS = {"a.mp4": hcstvg_item(), "b.mkv": hcstvg_item()}
OPTIONS: dict[str, Any] = {"expect_official_counts": False, "num_workers": 0, "resolution": 32, "eval_batch_size": 4}


def written(copy: DegradedCopy) -> Path:
    assert copy.write(workers=1, time_limit=60) == {}
    return copy.folder


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one would be slow to start."""

    def calls(function: Callable[[Any], Any], **limits: object) -> Callable[[Sequence[Any]], object]:
        return lambda tasks: enumerate(map(function, tasks))

    for module in (dataset, annotated.verify):
        monkeypatch.setattr(module, "IsolatedCalls", calls)


def shown(data: STVGDataModule) -> torch.Tensor:
    data.setup("test")
    (batch,) = data.test_dataloader()
    return batch.frames


def test_whole_videos_have_the_same_pixels_either_way(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test=ITEMS)
    folder = written(DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq"))
    files, fly = HCSTVG(root, degraded=folder, **OPTIONS), HCSTVG(root, **OPTIONS)
    assert torch.equal(shown(files), shown(fly))
    # The last frame is never shown, but those who want files want all of it.
    assert probe(folder / "v1_video" / "a.mp4").num_frames == NUM_FRAMES
    assert files.provenance() == fly.provenance() and files.conditions("test") == fly.conditions("test")
    assert files.degradations() == {**fly.degradations(), "source": "files, lossless"}
    info = next(iter(files.test_dataloader())).clips[1]
    assert (files.pixels(info) == fly.pixels(info)).all()


def test_a_copy_has_the_clips_whose_boxes_a_policy_may_allow(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    bad = hcstvg_item(bbox=[[-40, 0, -27, -47], [4, 6, 20, 30]])
    copy = DegradedCopy(HCSTVGSource(hcstvg(test={**ITEMS, "c.mp4": bad}), "v1"), ["test"], tmp_path / "lq")
    assert [clip.clip_id for clip in copy.clips] == ["a.mp4", "b.mkv", "c.mp4"]


@pytest.mark.usefixtures("in_this_process")
def test_a_copy_that_was_killed_ahead_of_its_first_manifest_is_begun_anew(
    hcstvg: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "lq"
    folder.mkdir()
    for name in (".lock", f".{uuid4().hex}.partial"):
        (folder / name).touch()
    written(DegradedCopy(HCSTVGSource(hcstvg(test={"a.mp4": hcstvg_item()}), "v1"), ["test"], folder))
    assert {path.name for path in folder.iterdir()} == {".lock", "degraded.json", "v1_video"}


def test_segments_have_the_same_pixels_either_way(vidstg: Callable[..., Path], tmp_path: Path) -> None:
    root = vidstg(test=[vidstg_item(), vidstg_item(used_segment={"begin_fid": 4, "end_fid": 18})])
    folder = written(DegradedCopy(VidSTGSource(root), ["test"], tmp_path / "lq"))
    assert sorted(path.name for path in (folder / "videos" / "1001").iterdir()) == ["2-17.mkv", "4-19.mkv"]
    assert probe(folder / "videos" / "1001" / "2-17.mkv").num_frames == 15
    options = {**OPTIONS, "eval_batch_size": 8, "eval_num_frames": 5}
    assert torch.equal(shown(VidSTG(root, degraded=folder, **options)), shown(VidSTG(root, **options)))


@pytest.mark.usefixtures("in_this_process")
def test_a_short_video_is_copied_as_far_as_it_goes(vidstg: Callable[..., Path], tmp_path: Path) -> None:
    behind = {"used_segment": {"begin_fid": 14, "end_fid": 18}, "temporal_gt": {"begin_fid": 15, "end_fid": 17}}
    root = vidstg(test=[vidstg_item(), vidstg_item(**behind)])
    write_clip(root / "videos" / "0001" / "1001.mp4", num_frames=14)
    verify(VidSTGSource(root), ["test"], root / "vidstg.manifest.json", expect_official_counts=False, workers=1)
    copy = DegradedCopy(VidSTGSource(root), ["test"], tmp_path / "lq")
    failures = copy.write(workers=1, time_limit=60)
    assert failures.keys() == {"1001/14-19"} and "only 14 frames, and the clip begins at 14" in failures["1001/14-19"]
    assert probe(copy.folder / "videos" / "1001" / "2-17.mkv").num_frames == 12
    options = {**OPTIONS, "eval_num_frames": 5, "on_short_clip": "clip", "on_bad_video": "skip"}
    assert torch.equal(shown(VidSTG(root, degraded=copy.folder, **options)), shown(VidSTG(root, **options)))


def test_the_manifest_tells_what_each_file_is(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    folder = written(DegradedCopy(HCSTVGSource(hcstvg(test=ITEMS), "v1"), ["test"], tmp_path / "lq", benchmark_seed=3))
    manifest = json.loads((folder / "degraded.json").read_text())
    assert (manifest["dataset"], manifest["degradations"], manifest["benchmark_seed"]) == ("hcstvg_v1", "D-1.0", 3)
    for clip in manifest["clips"].values():
        data = (folder / clip["path"]).read_bytes()
        assert (clip["num_bytes"], clip["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


def test_writing_goes_on_where_it_was(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    source = HCSTVGSource(hcstvg(test=ITEMS), "v1")
    folder = written(DegradedCopy(source, ["test"], tmp_path / "lq"))
    kept = (folder / "v1_video" / "a.mp4").stat().st_mtime_ns
    (folder / "v1_video" / "b.mkv").write_bytes(b"cut")
    begun = folder / "v1_video" / f".{'0' * 32}.partial"  # by a process that was killed
    begun.touch()
    again = DegradedCopy(source, ["test"], folder)
    assert [clip.clip_id for clip in again.missing] == ["b.mkv"] and again.estimate() > 1000
    written(again)
    assert (folder / "v1_video" / "a.mp4").stat().st_mtime_ns == kept and not begun.exists()
    assert DegradedCopy(source, ["test"], folder).missing == ()
    for changes in ({"benchmark_seed": 1}, {"crf": 18}, {"kernels": "absolute"}):
        with pytest.raises(CacheError, match=r"is asked for; choose another folder"):
            DegradedCopy(source, ["test"], folder, **changes)  # type: ignore[arg-type]


def test_a_copy_says_whose_it_is_before_its_first_clip(
    hcstvg: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or one that is killed before that could not be gone on with."""
    copy = DegradedCopy(HCSTVGSource(hcstvg(test=ITEMS), "v1"), ["test"], tmp_path / "lq")

    def calls(function: object, **limits: object) -> Callable[[object], tuple[()]]:
        assert read_manifest(copy.folder)[0].dataset == "hcstvg_v1"
        return lambda tasks: ()

    monkeypatch.setattr(dataset, "IsolatedCalls", calls)
    assert copy.write(workers=1, time_limit=60) == {}


@pytest.mark.usefixtures("in_this_process")
def test_one_process_writes_at_a_time_and_none_loses_what_another_has_written(
    hcstvg: Callable[..., Path], tmp_path: Path
) -> None:
    source = HCSTVGSource(hcstvg(train={"a.mp4": hcstvg_item()}, test={"b.mkv": hcstvg_item()}), "v1")
    train, test = (DegradedCopy(source, [split], tmp_path / "lq") for split in ("train", "test"))
    with locked(tmp_path / "lq"), pytest.raises(CacheError, match=r"another `.* degrade dataset` is writing to '.*lq'"):
        train.write(workers=1, time_limit=60)
    written(train)
    assert read_manifest(written(test))[1].keys() == {"a.mp4", "b.mkv"}


def test_a_bad_video_costs_itself_only(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test=ITEMS)
    (root / "v1_video" / "a.mp4").write_bytes(b"no video")
    copy = DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq")
    assert copy.estimate() > 1000
    failures = copy.write(workers=2, time_limit=60)
    assert failures.keys() == {"a.mp4"} and "it is truncated or no video" in failures["a.mp4"]
    with pytest.raises(CacheError, match=r"1 clips are not in '.*lq', the first 'a\.mp4': go on with"):
        HCSTVG(root, degraded=copy.folder, **OPTIONS).setup("test")
    with pytest.raises(VideoDecodeError, match=r"a\.mp4': it is truncated or no video"):
        DegradedCopy(HCSTVGSource(root, "v1"), ["test"], copy.folder).estimate()


def test_a_lossy_copy_is_another_benchmark(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test=ITEMS)
    lossless, lossy = (
        DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / n, crf=c) for n, c in (("a", None), ("b", 30))
    )
    assert lossless.estimate() > lossy.estimate() > 0
    data = HCSTVG(root, degraded=written(lossy), **OPTIONS)
    difference = (shown(data) - shown(HCSTVG(root, **OPTIONS))).abs()
    assert 0 < difference[1].mean() < 0.5 and difference[0].max() == 0
    assert data.conditions("test")[0] == "hcstvg_v1, LQ files in H.264 at crf 30"
    assert data.provenance()["degraded"] == "H.264 at crf 30"


def test_features_are_those_of_the_files(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test=ITEMS)
    folder = written(DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq", crf=30))

    def encode(batch: Batch) -> BackboneFeatures:
        pixels = batch.frames[..., ::8, ::8]
        return BackboneFeatures(pixels, pixels, torch.ones(len(batch), *pixels.shape[-2:], dtype=torch.bool))

    cached = HCSTVG(root, degraded=folder, features=tmp_path / "features", variants=1, **OPTIONS)
    cached.build_cache("test", encode, "backbones")
    cached.setup("test")
    (batch,) = cached.test_dataloader()
    expected = shown(HCSTVG(root, degraded=folder, **OPTIONS))[..., ::8, ::8]
    torch.testing.assert_close(batch.features.appearance, expected, atol=2e-3, rtol=1e-3)
    told = cached.degradations()
    assert told["source"] == "cached features, files, H.264 at crf 30"
    assert told["pixels"] == DegradedFiles(folder).manifest.pixels


def test_files_of_another_video_are_refused_until_they_are_made_again(
    hcstvg: Callable[..., Path], tmp_path: Path
) -> None:
    root = hcstvg(test=ITEMS)
    folder = written(DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq"))
    write_clip(root / "v1_video" / "a.mp4", seed=9)
    with pytest.raises(
        CacheError, match=r"'a\.mp4' in '.*lq' was made from a video of [\d,]+ bytes, but '.*a\.mp4' has"
    ):
        HCSTVG(root, degraded=folder, **OPTIONS).setup("test")
    written(DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq"))
    HCSTVG(root, degraded=folder, **OPTIONS).setup("test")


def test_files_of_another_benchmark_or_changed_ones_are_refused(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test=ITEMS)
    folder = written(DegradedCopy(HCSTVGSource(root, "v1"), ["test"], tmp_path / "lq"))
    with pytest.raises(CacheError, match=r"\('hcstvg_v1', 'D-1\.0', 0\) .* run has \('hcstvg_v1', 'D-1\.0', 5\)"):
        HCSTVG(root, degraded=folder, benchmark_seed=5, **OPTIONS).setup("test")
    with (folder / "v1_video" / "a.mp4").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CacheError, match=r"a\.mp4' must have \d+ bytes, got \d+; delete it"):
        shown(HCSTVG(root, degraded=folder, **OPTIONS))
    (folder / "degraded.json").write_text('{"schema": 1}')
    with pytest.raises(CacheError, match=r"degraded\.json' is damaged \(KeyError"):
        DegradedFiles(folder)
    with pytest.raises(CacheError, match="degrade dataset` writes it"):
        DegradedFiles(tmp_path / "nowhere")
