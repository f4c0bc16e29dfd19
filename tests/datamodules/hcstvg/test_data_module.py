"""HC-STVG as a data module: splits, bad videos, batches."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules import HCSTVG
from datamodules.annotated import AnnotationError
from datamodules.annotated.verify import verify
from datamodules.caches.array_store import CacheError
from datamodules.hcstvg.source import HCSTVGSource
from datamodules.sampling import FramesByClock
from datamodules.transforms import ShortSide
from stvg_nst.types import BackboneFeatures, Batch
from tests.datamodules.published import hcstvg_item, write_clip

TRAIN = {f"{i}_film{film:07d}.mp4": hcstvg_item() for i in range(2) for film in range(8)}


def module(root: Path, **changes: Any) -> HCSTVG:
    options = {"expect_official_counts": False, "num_workers": 0, "held_out": 0.5, "resolution": 32, **changes}
    return HCSTVG(root, **options)


def verified(root: Path) -> None:
    source = HCSTVGSource(root, "v1")
    verify(source, ("test",), root / "hcstvg_v1.manifest.json", expect_official_counts=False, workers=1)


def test_a_film_is_in_training_or_in_validation(hcstvg: Callable[..., Path]) -> None:
    data = module(hcstvg(train=TRAIN))
    data.setup("fit")  # there is no test annotation file: choosing anything needs none
    train, val = ({record.item_id for record in data.records[split]} for split in ("train", "val"))
    assert not train & val and train | val == TRAIN.keys()
    films = [{name.partition("_")[2] for name in names} for names in (train, val)]
    assert not films[0] & films[1] and all(films)


def test_a_manifest_that_is_named_must_be_there(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    """Without it every video would count as sound."""
    root, named = hcstvg(test={"0_film0000000.mp4": hcstvg_item()}), tmp_path / "elsewhere.json"
    with pytest.raises(FileNotFoundError, match=rf"manifest names '{named}', .* data verify .* --manifest {named}`$"):
        module(root, manifest=named).load_records("test")
    verified(root)
    (root / "hcstvg_v1.manifest.json").rename(named)
    assert len(module(root, manifest=named).load_records("test")) == 1


def test_a_film_is_in_one_half_of_the_validation_split(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train=TRAIN)
    halves: dict[str, set[str]] = {}
    for half in ("search", "ablate"):
        data = module(root, held_out=0.7, validation_half=half, eval_frame_rate=0.2)
        loader = data.evaluation_loader("val")
        halves[half] = {info.item_id for batch in loader for info in batch.clips}
    whole = module(root, held_out=0.7)
    whole.setup_split("val")
    assert halves["search"] | halves["ablate"] == {record.clip_id for record in whole.records["val"]}
    films = [{name.partition("_")[2] for name in names} for names in halves.values()]
    assert not films[0] & films[1] and all(films)


def test_the_held_out_part_hangs_on_names_only(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train=TRAIN)
    whole = {record.item_id for record in module(root, seed=1).load_records("val")}
    part = dict(list(TRAIN.items())[5:])
    hcstvg(train=part)
    assert {record.item_id for record in module(root, benchmark_seed=9).load_records("val")} == whole & part.keys()


def test_batches_hold_the_clips_at_the_networks_size(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train=TRAIN, test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item(st_frame=1)})
    data = module(root, eval_frame_rate=0.5, frame_rate=1.0, eval_batch_size=4)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert isinstance(batch, Batch) and batch.frames is not None
    # 20 frames are one a second; the last is never shown; every second of the others and the last of them.
    assert batch.clips[0].frame_ids == (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)
    assert batch.frames.shape == (4, 10, 3, 32, 42) and batch.frame_sizes == ((32, 42),) * 4
    assert [info.item_id for info in batch.clips] == ["a.mp4", "a.mp4", "b.mp4", "b.mp4"]
    assert batch.inside[0].nonzero().flatten().tolist() == [2, 3, 4]
    torch.testing.assert_close(batch.boxes[0, 2], torch.tensor([15 / 64, 21 / 48, 20 / 64, 30 / 48]))
    data.setup("fit")
    training = next(iter(data.train_dataloader()))
    assert training.frames.shape == (2, 19, 3, 32, 42) and training.qualities.tolist() == [0, 1]


def test_both_ways_of_resizing_can_be_had(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    frames = {}
    for antialias in (True, False):
        data = module(root, resolution=20, antialias=antialias, eval_frame_rate=0.2)
        data.setup("test")
        frames[antialias] = next(iter(data.test_dataloader())).frames
        assert data.provenance()["antialias"] is antialias
    assert not torch.equal(frames[True], frames[False])


def test_clips_can_be_shown_and_read_as_by_tubedetr(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    options = {"sampling": FramesByClock(0.5, at_most=8), "resizing": "short_side", "convention": "tubedetr"}
    data = module(root, **options)
    data.setup("test")
    clip = next(iter(data.test_dataloader())).clips[0]
    # 20 frames are one a second: every other one of 19, and 8 of those 10.
    assert clip.frame_ids == (0, 2, 4, 6, 10, 12, 14, 16)
    assert (clip.target.start, clip.target.stop) == (4, 10)
    assert data.resize() == ShortSide(32) and data.conditions("test").dataset == "hcstvg_v1, convention tubedetr"
    ours = {name: data.provenance()[name] for name in options}
    assert ours == {**options, "sampling": {"rate": 0.5, "at_most": 8}}
    known = module(root).provenance()
    assert {**known, "antialias": None} == {k: v for k, v in data.provenance().items() if k not in options}
    assert "convention" not in known, "a cache that was built before there was a choice stays valid"


def test_counts_are_the_published_ones_unless_told(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    with pytest.raises(ValueError, match=r"1,160 sentences .*expect_official_counts false"):
        module(root, expect_official_counts=True).load_records("test")


def test_a_faulty_annotation_stops_or_is_skipped(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item(fps=1, st_frame=0)})
    with pytest.raises(AnnotationError, match=r"item 'b\.mp4', field 'st_frame'"):
        module(root).load_records("test")
    verified(root)
    data = module(root, on_bad_video="skip")
    assert [record.item_id for record in data.load_records("test")] == ["a.mp4"] and data.skipped("test") == 2


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_faulty_training_file_serves_neither_training_nor_validation(hcstvg: Callable[..., Path], split: Any) -> None:
    root = hcstvg(train={**TRAIN, "b.mp4": hcstvg_item(st_frame=0)})
    with pytest.raises(AnnotationError, match=r"item 'b\.mp4', field 'st_frame'"):
        module(root).load_records(split)


def test_bad_videos_stop_or_are_skipped_and_counted(
    hcstvg: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    root = hcstvg(test={name: hcstvg_item() for name in ("a.mp4", "b.mp4", "c.mp4")})
    (root / "v1_video" / "b.mp4").write_bytes(b"")
    (root / "v1_video" / "c.mp4").unlink()
    assert len(module(root).load_records("test")) == 3, "nothing is known of the videos yet"
    verified(root)
    with pytest.raises(ValueError, match=r"2 videos of the test split .* the first 'b\.mp4' \(unreadable: the file is"):
        module(root).load_records("test")
    data = module(root, on_bad_video="skip")
    with caplog.at_level(logging.WARNING):
        data.setup("test")
    assert [record.item_id for record in data.records["test"]] == ["a.mp4"]
    assert data.skipped("test") == 4 and "test: 2 of 3 sentences are skipped" in caplog.text
    assert data.provenance() == module(root).provenance()
    data = module(root, on_bad_video="skip", evaluation_conditions=["HQ", "defocus"])
    data.setup("test")
    assert data.skipped("test") == 2 * 6


def test_a_bad_video_that_was_fetched_anew_must_be_verified(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    (root / "v1_video" / "b.mp4").unlink()
    verified(root)
    write_clip(root / "v1_video" / "b.mp4")
    for policy in ("refuse", "skip"):
        with pytest.raises(ValueError, match=r"'v1_video/b\.mp4' has changed since it was found 'missing'; run"):
            module(root, on_bad_video=policy).load_records("test")
    verified(root)
    assert len(module(root).load_records("test")) == 2


def test_skipping_needs_to_know_the_videos(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    with pytest.raises(FileNotFoundError, match=r"run `python -m stvg_nst data verify hcstvg_v1 "):
        module(root, on_bad_video="skip").load_records("test")
    verified(root)
    hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    with pytest.raises(ValueError, match=r"does not know the video 'b\.mp4'"):
        module(root, on_bad_video="skip").load_records("test")


def test_an_empty_split_is_an_error(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={"a.mp4": hcstvg_item()})
    sizes = []
    for split in ("train", "val"):
        try:
            sizes.append(len(module(root).load_records(split)))  # type: ignore[arg-type]
        except ValueError as error:
            sizes.append(0)
            told = str(error)
    assert sorted(sizes) == [0, 1]
    assert "is empty: 0 of the 1 sentences" in told and "change held_out (0.5)" in told


@pytest.mark.parametrize("option", ["resolution", "frame_rate", "eval_frame_rate"])
def test_a_size_or_a_rate_of_nothing_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"--data.init_args.{option} must be .* got 0"):
        module(tmp_path, **{option: 0})


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.1])
def test_something_must_be_held_out(held_out: float) -> None:
    with pytest.raises(ValueError, match=f"held_out must lie in .* got {held_out}"):
        HCSTVG(Path("nowhere"), held_out=held_out)


def test_version_2_is_found_under_both_names(tmp_path: Path) -> None:
    folder = tmp_path / "annos" / "hcstvg_v2"
    folder.mkdir(parents=True)
    source = HCSTVGSource(tmp_path, "v2")
    assert source.annotation_file("test").name == "test.json"
    (folder / "valv2.json").write_text("{}")
    (folder / "trainv2.json").write_text("{}")
    assert [source.annotation_file(split).name for split in source.splits] == ["trainv2.json", "valv2.json"]
    assert "10,131" in source.count_mismatch("train") and "2,000" in source.count_mismatch("test")
    with pytest.raises(ValueError, match="has the splits train, test, got 'val'"):
        source.annotation_file("val")


@pytest.mark.parametrize(
    ("video", "film"),
    [
        ("47_1XZZnWMP4CU.mkv", "1XZZnWMP4CU"),
        ("10__Gvp-cj3bmIY.mp4", "Gvp-cj3bmIY"),
        ("crossing.mp4", "crossing.mp4"),
    ],
)
def test_films_by_their_names(video: str, film: str) -> None:
    assert HCSTVGSource(Path("nowhere"), "v1").film(video) == film


def encode(batch: Batch) -> BackboneFeatures:
    assert batch.frames is not None
    pixels = batch.frames[..., ::8, ::8]
    return BackboneFeatures(pixels, pixels, torch.ones(len(batch), *pixels.shape[-2:], dtype=torch.bool))


def test_features_of_another_root_or_of_a_replaced_video_are_refused(
    hcstvg: Callable[..., Path], tmp_path: Path
) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    options = {"features": tmp_path / "features", "variants": 1}
    folder = module(root, **options).build_cache("test", encode, "backbones")
    module(root, **options).setup("test")

    other = tmp_path / "other"
    shutil.copytree(root / "annos", other / "annos")
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        write_clip(other / "v1_video" / name, seed=seed + 5)
    with pytest.raises(CacheError, match=r"features/test' has the frames of another '.*other/v1_video/a\.mp4' of 'a"):
        module(other, **options).setup("test")

    write_clip(root / "v1_video" / "b.mp4", num_frames=40)
    for use in (
        lambda data: data.setup("test"),
        lambda data: data.build_cache("test", encode, "backbones"),
        lambda data: data.evaluation_loader("test"),
    ):
        with pytest.raises(CacheError, match=rf"another '.*b\.mp4' of 'b\.mp4'; delete '{folder}' and build it again"):
            use(module(root, **options))


def test_features_outlive_the_videos(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item()})
    frames = {"frames": tmp_path / "frames"}
    data = module(root, **frames)
    data.setup_split("test")
    data.build_frames("test", data.frames_of_clips("test"), workers=1, progress=lambda done: None)
    (root / "v1_video" / "a.mp4").rename(tmp_path / "a.mp4")
    options = {"features": tmp_path / "features", "variants": 1}
    module(root, **frames, **options).build_cache("test", encode, "backbones")
    module(root, **options).setup("test")
    (tmp_path / "a.mp4").rename(root / "v1_video" / "a.mp4")
    module(root, **options).setup("test")
    write_clip(root / "v1_video" / "a.mp4", seed=7)
    with pytest.raises(CacheError, match=r"another '.*a\.mp4' of 'a\.mp4'"):
        module(root, **options).setup("test")


def test_features_that_do_not_say_of_which_videos_are_refused(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    data = module(hcstvg(test={"a.mp4": hcstvg_item()}), features=tmp_path / "features", variants=1)
    index = data.build_cache("test", encode, "backbones") / "index.json"
    content = json.loads(index.read_text())
    del content["crc32"]  # such caches state none
    for row in content["rows"].values():
        del row["video_bytes"]
    index.write_text(json.dumps(content))
    with pytest.raises(
        CacheError, match=r"has features, of an unknown video, of 'a\.mp4'; delete .* and build it again"
    ):
        data.setup("test")


def test_the_real_clips_become_a_batch(shared: Path) -> None:
    root = shared / "real_clips" / "hc-stvg"
    if not root.is_dir():
        pytest.skip("no real clips in the shared folder")
    data = module(root, resolution=64, eval_frame_rate=1.6, eval_batch_size=2)
    data.setup("test")
    (batch,) = data.test_dataloader()
    assert batch.frames.shape[2:] == (3, 64, 89) and batch.frames.isfinite().all()
    assert batch.inside.any(dim=1).all() and batch.clips[0].native_size == (240, 360)
    assert batch.clips[0].frame_ids[-1] == 118


OUTSIDE = [-40, 0, -27, -47]


def with_bad_boxes(**changes: Any) -> dict[str, Any]:
    item = hcstvg_item(**changes)
    item["bbox"][1] = OUTSIDE
    item["bbox"][4] = [60, 6, 5, 30]
    return item


def test_bad_boxes_stop_and_the_error_names_the_way_out(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={**TRAIN, "c.mp4": with_bad_boxes()}, test={"a.mp4": with_bad_boxes()})
    for stage in ("test", "fit"):
        with pytest.raises(AnnotationError, match=r"'bbox\[1\]': .*; choose --data\.init_args\.on_bad_box clip\|as_pu"):
            module(root).setup(stage)


@pytest.mark.parametrize("policy", ["clip", "as_published", "skip_frame"])
def test_bad_boxes_are_counted_and_numbers_under_other_policies_do_not_compare(
    hcstvg: Callable[..., Path], caplog: pytest.LogCaptureFixture, policy: Any
) -> None:
    root = hcstvg(test={"a.mp4": with_bad_boxes(), "b.mp4": hcstvg_item()})
    data = module(root, on_bad_box=policy, eval_frame_rate=20.0, eval_batch_size=1)
    with caplog.at_level(logging.WARNING):
        data.setup("test")
    assert f"test: on_bad_box {policy} has touched 1 sentence of 1 clip, 2 frames" in caplog.text
    assert data.policies()["on_bad_box"] == {
        "policy": policy,
        "touched": {"test": {"sentences": 1, "clips": 1, "frames": 2}},
    }
    assert data.conditions("test").dataset == f"hcstvg_v1, on_bad_box {policy}"
    assert module(root).conditions("test").dataset == "hcstvg_v1" and data.skipped("test") == 0
    # What is decoded, degraded and cached depends on no policy.
    assert data.provenance() == module(root, eval_frame_rate=20.0).provenance()
    (batch, *_) = data.test_dataloader()
    assert batch.boxes.isfinite().all() and batch.inside[0].sum() == 6
    with_area = (batch.boxes[0, batch.inside[0], 2:] > 0).all(dim=1).tolist()
    assert with_area == [True, False, True, True, policy != "skip_frame", True]


def test_short_clips_stop_or_are_shown_as_far_as_they_go(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(img_num=22, st_frame=17), "b.mp4": hcstvg_item()})
    with pytest.raises(FileNotFoundError, match=r"what there is of short ones, they must be known, .*run `python -m "):
        module(root, on_short_clip="clip").load_records("test")
    verified(root)
    with pytest.raises(
        ValueError, match=r"'a\.mp4' \(too short: 20 frames, but 21 are needed\).*on_short_clip clip\|as"
    ):
        module(root).load_records("test")
    stops = {}
    for policy in ("clip", "skip_frame", "as_published"):
        data = module(root, on_short_clip=policy, eval_frame_rate=20.0, eval_batch_size=1)
        data.setup("test")
        (batch, *_) = data.test_dataloader()
        assert batch.clips[0].frame_ids == tuple(range(20)), "every frame that there is"
        stops[policy] = data.records["test"][0].target.stop
        assert data.policies()["on_short_clip"]["touched"]["test"] == {"sentences": 1, "clips": 1, "frames": 2}
        assert data.conditions("test").dataset == f"hcstvg_v1, on_short_clip {policy}"
    assert stops == {"clip": 20, "skip_frame": 20, "as_published": 22}


def test_a_video_that_is_bad_in_another_way_is_not_a_short_clip(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": hcstvg_item(), "b.mp4": hcstvg_item()})
    write_clip(root / "v1_video" / "a.mp4", size=(48, 80))
    verified(root)
    with pytest.raises(ValueError, match=r"'a\.mp4' \(wrong size: "):
        module(root, on_short_clip="clip").load_records("test")


def test_a_refused_box_is_skipped_with_its_sentence_where_faulty_ones_are(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(test={"a.mp4": with_bad_boxes(), "b.mp4": hcstvg_item()})
    verified(root)
    data = module(root, on_bad_video="skip")
    assert [record.item_id for record in data.load_records("test")] == ["b.mp4"]
    touched = {option: entry["touched"]["test"]["sentences"] for option, entry in data.policies().items()}
    assert touched == {"on_bad_video": 1, "on_bad_box": 0, "on_short_clip": 0}
