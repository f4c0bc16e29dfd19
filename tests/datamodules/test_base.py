"""The data module on the embedded benchmark: a handful of really rendered and decoded clips."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from torch.utils.data import DistributedSampler

from datamodules import MiniSTVG, base, pixels
from datamodules.caches.array_store import CacheError
from datamodules.caches.features import FeatureCache, FeatureWriter, feature_key
from datamodules.clips import collate
from datamodules.degradation.golden_pixels import GOLDEN_HASHES, PixelOrigin
from datamodules.degradation.kinds import DEGRADATIONS, UNSEEN
from datamodules.ministvg import COLOURS, data_module, load_annotations
from datamodules.ministvg.data_module import target_words
from datamodules.quality import Draw
from stvg_nst.machine import disk_room
from stvg_nst.types import (
    BackboneFeatures,
    Batch,
    Clip,
    ClipInfo,
    Quality,
    QualityBatch,
    StepTotals,
    Tube,
    with_box,
)

ON_A_CPU = SimpleNamespace(root_device=torch.device("cpu"))
# Of val-00000 and so on: results of a half compare only as long as these stay.
HALVES = ["ablate", "ablate", "ablate", "ablate", "search", "ablate", "search", "ablate"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def mini(root: Path, **changes: Any) -> MiniSTVG:
    options: dict[str, Any] = {"num_workers": 0, "training_clips": 3, "val_clips": 2, "test_clips": 2, "batch_size": 2}
    return MiniSTVG(root, **{**options, **changes})


def batches(data: MiniSTVG, split: str) -> list[Batch]:
    data.prepare_data()
    data.setup("fit" if split != "test" else "test")
    return list(getattr(data, f"{split}_dataloader")())


def test_training_batches_hold_as_many_high_as_low_quality_clips(root: Path) -> None:
    for batch in batches(mini(root), "train"):
        assert batch.qualities.tolist() == [0, 1]
        assert batch.frames is not None and batch.frames.shape == (2, 16, 3, 128, 128)
        assert [info.degradation is None for info in batch.clips] == [True, False]


def test_what_is_trained_on_is_known_by_its_content_and_not_by_its_place(root: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(root)
    prints = []
    for data in (mini(root), mini(tmp_path / "moved", num_workers=2, seed=5), mini(root, training_clips=2)):
        data.prepare_data()
        data.setup("fit")
        prints.append(data.training_fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_processes_that_would_get_nothing_are_refused(root: Path) -> None:
    data = mini(root)
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(strategy=ON_A_CPU, global_rank=0, world_size=3)  # type: ignore[assignment]
    assert len(data.train_dataloader()) == 1  # of 3 clips with two sentences each
    assert len(data.val_dataloader().sampler) == 4  # type: ignore[arg-type]
    data.trainer = SimpleNamespace(strategy=ON_A_CPU, global_rank=0, world_size=5)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"one training batch of 2 samples for each of 5 process\(es\), got 0 samples"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="one clip of 'val' for each of 5 processes, got 4"):
        data.val_dataloader()


def stepping(data: MiniSTVG, *, rank: int, processes: int, asked: int = 1, callbacks: Sequence[Any] = ()) -> MiniSTVG:
    """A data module that is set up for a fit on one of several processes."""
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=ON_A_CPU,
        global_rank=rank,
        is_global_zero=rank == 0,
        world_size=processes,
        num_nodes=1,
        callbacks=callbacks,
        accumulate_grad_batches=asked,
        precision="32-true",
        overfit_batches=0,
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
        ),
    )
    data.prepare_data()
    data.setup("fit")
    return data


def shown(batch: Batch) -> list[tuple[str, Quality]]:
    return [(info.item_id, info.quality) for info in batch.clips]


@pytest.mark.usefixtures("five_training_clips")
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_step_has_the_same_batches_on_any_number_of_processes(root: Path, processes: int) -> None:
    """Ten samples: two remain of a step of eight, and are left out everywhere."""
    shares: list[list[Batch]] = []
    for rank in range(processes):
        data = mini(root, training_clips=None, batch_size=2, effective_batch=8)
        stepping(data, rank=rank, processes=processes)
        loader = data.train_dataloader()
        data.trainer.num_training_batches = len(loader)  # type: ignore[union-attr, misc]
        assert data.trainer.accumulate_grad_batches == 4 // processes  # type: ignore[union-attr]
        shares.append(list(loader))
    dealt = [batch for round_ in zip(*shares, strict=True) for batch in round_]
    alone = mini(root, training_clips=None, batch_size=2)
    alone.setup("fit")
    expected = list(alone.train_dataloader())[:4]
    assert [shown(batch) for batch in dealt] == [shown(batch) for batch in expected]
    boxes = sum(int(with_box(batch.boxes, batch.inside).sum()) for batch in expected)
    assert {batch.step for batch in dealt} == {StepTotals(clips=8, boxes=boxes)}
    assert expected[0].step is None, "a batch that is a step by itself counts itself"


@pytest.mark.parametrize(
    ("options", "processes", "asked", "said"),
    [
        ({"batch_size": 3, "effective_batch": 8}, 1, 1, "the 3 clips that 1 .* give a batch_size of 1, 2, 4, 8$"),
        ({"batch_size": 8, "effective_batch": 8}, 2, 1, "the 16 clips that 2 .* give a batch_size of 1, 2, 4$"),
        ({"batch_size": 1, "effective_batch": 8}, 3, 1, "the 3 clips that 3 .* another number of devices or nodes$"),
        ({"batch_size": 1, "effective_batch": 2}, 4, 1, "the 4 clips that 4 .* another number of devices or nodes$"),
        ({"batch_size": 2, "effective_batch": 8}, 1, 2, "gathers 4 batches a step, but .* is 2; leave that out$"),
    ],
)
def test_an_effective_batch_that_no_number_of_batches_makes_is_refused(
    root: Path, options: dict[str, int], processes: int, asked: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        stepping(mini(root, **options), rank=0, processes=processes, asked=asked)


def test_an_effective_batch_that_would_change_between_epochs_is_refused(root: Path) -> None:
    data = mini(root, batch_size=2, effective_batch=4)
    with pytest.raises(ValueError, match="GradientAccumulationScheduler sets another number; leave out one of the two"):
        stepping(data, rank=0, processes=1, callbacks=[GradientAccumulationScheduler({0: 4})])


def test_what_a_step_follows_is_said_before_the_first(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "datamodules.base")
    stepping(mini(root, batch_size=2, effective_batch=8), rank=0, processes=2)
    assert (
        "a step of the optimiser follows 8 clips: 2 processes, 2 clip(s) in a batch of each, 2 batch(es) gathered; "
        "precision 32-true" in caplog.text
    )


def test_lightning_deals_no_part_of_a_part(root: Path) -> None:
    """It would do so to two devices wherever ``use_distributed_sampler`` is left at its default."""
    data = mini(root)
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(strategy=ON_A_CPU, global_rank=1, world_size=2)  # type: ignore[assignment]
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader.sampler, DistributedSampler)


def test_an_order_that_lightning_chooses_is_refused(root: Path) -> None:
    data = mini(root)
    data.trainer = SimpleNamespace(overfit_batches=2)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"--trainer\.overfit_batches .* give --data\.init_args\.training_items"):
        data.setup("fit")


def test_a_batch_is_measured_before_it_is_read(root: Path) -> None:
    (batch,) = batches(mini(root, eval_batch_size=8), "test")
    data = mini(root, eval_batch_size=8)
    data.setup("test")
    loader = data.test_dataloader()
    told = loader.dataset.batch_bytes(list(loader.sampler))  # type: ignore[attr-defined]
    assert batch.frames is not None and told == batch.frames.nbytes


def test_twins_are_measured_with_their_batch(root: Path) -> None:
    (batch, *_) = batches(mini(root, twins=True), "train")
    data = mini(root, twins=True)
    data.setup("fit")
    loader = data.train_dataloader()
    told = loader.dataset.batch_bytes(list(loader.sampler)[:2])  # type: ignore[attr-defined]
    assert batch.frames is not None and batch.twins is not None and batch.twins.frames is not None
    assert told == batch.frames.nbytes + batch.twins.frames.nbytes == 3 * batch.frames[0].nbytes


def test_evaluation_shows_each_item_in_both_qualities(root: Path) -> None:
    seen = [(info.item_id, info.quality) for batch in batches(mini(root), "test") for info in batch.clips]
    assert len(seen) == len(set(seen)) == 2 * 2 * 2
    assert {item for item, quality in seen if quality is Quality.HQ} == {i for i, q in seen if q is Quality.LQ}


def test_low_quality_frames_differ_and_carry_the_same_answer(root: Path) -> None:
    (batch,) = batches(mini(root, eval_batch_size=8), "test")
    assert batch.frames is not None
    assert (batch.frames[0] - batch.frames[1]).abs().mean() > 0.01
    assert torch.equal(batch.boxes[0], batch.boxes[1]) and torch.equal(batch.inside[0], batch.inside[1])


def test_boxes_and_inside_are_the_targets_on_the_sampled_frames(root: Path) -> None:
    (batch,) = batches(mini(root, eval_batch_size=8), "test")
    for row, info in enumerate(batch.clips):
        for column, frame in enumerate(info.frame_ids):
            covered = info.target.start <= frame < info.target.stop
            assert bool(batch.inside[row, column]) is covered
            if covered:
                x1, y1, x2, y2 = (info.target.boxes[frame - info.target.start] / 128).tolist()
                expected = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
                assert batch.boxes[row, column].tolist() == pytest.approx(expected, abs=1e-5)


def test_workers_do_not_change_a_byte(root: Path) -> None:
    alone, helped = (batches(mini(root, num_workers=n), "train") for n in (0, 2))
    assert len(alone) == len(helped) == 3
    for a, b in zip(alone, helped, strict=True):
        assert a.clips[1].degradation == b.clips[1].degradation and a.queries == b.queries
        assert a.frames is not None and b.frames is not None and torch.equal(a.frames, b.frames)


def test_pixels_are_what_the_network_was_shown(root: Path) -> None:
    data = mini(root, eval_batch_size=8)
    (batch,) = batches(data, "test")
    assert batch.frames is not None
    pixels = torch.from_numpy(data.pixels(batch.clips[1])).permute(0, 3, 1, 2).float() / 255
    std, mean = torch.tensor([0.229, 0.224, 0.225]), torch.tensor([0.485, 0.456, 0.406])
    shown = batch.frames[1] * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(shown, pixels, atol=1e-5, rtol=0)


def test_a_sample_can_be_looked_at_by_its_name(root: Path) -> None:
    (batch,) = batches(mini(root, eval_batch_size=8), "test")
    data = mini(root)
    for shown in batch.clips:
        found = data.sample(shown.item_id, shown.quality)
        assert found.degradation == shown.degradation and found.query == shown.query
    with pytest.raises(ValueError, match="the test split of MiniSTVG has no item 'x'"):
        data.sample("x", Quality.HQ)


@pytest.mark.parametrize("conditions", [["HQ", "defocus:3"], "matrix", "mixed"])
def test_a_sample_is_one_that_is_shown(root: Path, conditions: Any) -> None:
    options = {"evaluation_conditions": conditions, "eval_batch_size": 100}
    (batch,) = batches(mini(root, **options), "test")
    asked = {(info.item_id, info.quality) for info in batch.clips}
    shown = {(info.item_id, info.degradation) for info in batch.clips}
    data = mini(root, **options)
    assert {(item, data.sample(item, quality).degradation) for item, quality in asked} <= shown


def test_a_quality_that_is_not_shown_has_no_sample(root: Path) -> None:
    data = mini(root, evaluation_conditions=["HQ"])
    with pytest.raises(ValueError, match="the test split is shown in HQ, and not in LQ"):
        data.sample("test-00000/declarative", Quality.LQ)


def test_a_sample_is_read_from_the_cache_of_frames_as_the_run_read_it(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mini(root, frames=tmp_path)
    data.setup_split("test")
    data.build_frames("test", data.frames_of_clips("test"), workers=1, progress=lambda done: None)
    before = mini(root)
    expected = before.pixels(before.sample("test-00000/declarative", Quality.HQ))
    monkeypatch.setattr(pixels, "read_frames", None)  # as where the films are gone
    info = data.sample("test-00000/declarative", Quality.HQ)
    assert (data.pixels(info) == expected).all()


def test_a_training_subset_takes_the_first_records(root: Path) -> None:
    data = mini(root, training_items=2)
    assert len(batches(data, "train")) == 1
    with pytest.raises(ValueError, match=r"training_items must lie in \[1, 6\], got 7"):
        batches(mini(root, training_items=7), "train")


def test_training_clips_can_lack_looks_and_actions(root: Path) -> None:
    scenes = {scene.clip_id: target_words(scene) for scene in load_annotations(root / "ministvg-1" / "tune")[:3]}
    words = frozenset.intersection(scenes["tune-00000"], frozenset(COLOURS))
    data = mini(root, training_without=[*words])
    batches(data, "train")
    left = {record.clip_id for record in data.records["train"]}
    assert left == {clip for clip, found in scenes.items() if not words & found} and "tune-00000" not in left
    assert len(data.records["val"]) == 4, "validation shows everything"
    with pytest.raises(ValueError, match=r"training_without knows circle, .*, got crimson"):
        mini(root, training_without=["crimson"])


def encode(batch: Batch) -> BackboneFeatures:
    """Stands for the backbones: mean colours on a 2 x 2 grid, so that a swapped clip would be noticed."""
    assert batch.frames is not None
    means = batch.frames.unflatten(-1, (2, 64)).unflatten(-3, (2, 64)).mean((-1, -3))
    return BackboneFeatures(means, means[:, :, :1], torch.ones(len(batch), 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_cached_features_are_those_of_the_frames(root: Path, tmp_path: Path, split: Any) -> None:
    cached = mini(root, variants=2, features=tmp_path, eval_batch_size=3)
    for name in ("train", "val") if split != "test" else ("test",):
        cached.build_cache(name, encode, "backbones")
    plain = mini(root, variants=2, eval_batch_size=3)
    for with_cache, without in zip(batches(cached, split), batches(plain, split), strict=True):
        assert with_cache.frames is None and with_cache.features is not None
        assert with_cache.clips[1].degradation == without.clips[1].degradation
        torch.testing.assert_close(with_cache.features.appearance, encode(without).appearance, atol=2e-3, rtol=1e-3)
    assert cached.cached_backbones == "backbones"


def test_a_cache_of_many_conditions_has_a_name_that_file_systems_take(root: Path, tmp_path: Path) -> None:
    every = ["HQ", *DEGRADATIONS, *UNSEEN]
    folders = [
        mini(root, variants=1, features=tmp_path, evaluation_conditions=shown).cache_folder("test")
        for shown in (every, every, every[1:])
    ]
    assert folders[0] == folders[1] != folders[2]
    with FeatureWriter(folders[0], {}, "backbones", PixelOrigin("on the fly", None)):
        assert not folders[0].exists()
    assert folders[0].is_dir()


def test_a_cache_is_kept_when_it_fits_and_refused_when_it_does_not(root: Path, tmp_path: Path) -> None:
    data = mini(root, variants=1, features=tmp_path)
    folder = data.build_cache("val", encode, "backbones")
    before = (folder / "features.bin").stat().st_mtime_ns
    data.build_cache("val", encode, "backbones")
    assert (folder / "features.bin").stat().st_mtime_ns == before
    with pytest.raises(CacheError, match="other backbones"):
        data.build_cache("val", encode, "others")


def test_a_cache_from_before_it_noted_the_videos_serves_rendered_ones(root: Path, tmp_path: Path) -> None:
    data = mini(root, variants=1, features=tmp_path)
    index = data.build_cache("test", encode, "backbones") / "index.json"
    content = json.loads(index.read_text())
    del content["crc32"]  # such caches state none
    for row in content["rows"].values():
        for name in ("frame_ids", "size", "video_bytes"):
            del row[name]
    index.write_text(json.dumps(content))
    assert all(batch.features is not None for batch in batches(data, "test"))


def test_large_cached_features_are_read_by_the_workers(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mini(root, variants=1, features=tmp_path).build_cache("test", encode, "backbones")
    data = mini(root, variants=1, features=tmp_path, num_workers=2)
    data.setup("test")
    small = data.test_dataloader()
    row = (folder / "features.bin").stat().st_size // 4
    for limit, workers in ((row, 0), (row - 1, 2)):
        monkeypatch.setattr(base, "_READ_AT_ONCE_BYTES", limit)
        large = data.test_dataloader()
        assert (small.num_workers, large.num_workers) == (0, workers)
    pickled = pickle.loads(pickle.dumps(large.dataset))  # as a spawned loader process gets it
    for (helped, batch), draw in zip(zip(large, small, strict=True), list(small.sampler)[::16], strict=True):
        assert torch.equal(helped.features.appearance, batch.features.appearance) and helped.queries == batch.queries
        assert torch.equal(pickled[draw].features.appearance, batch.features.appearance[:1])


def test_a_cache_tells_its_size_and_is_refused_a_disk_that_is_too_small(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = 4 * 2 * 16 * 4 * 2 * 2  # versions, bytes, frames, channels of both encoders, cells
    data = mini(root, variants=1, features=tmp_path)
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: num_bytes - 1)
    with pytest.raises(OSError, match=r"test' needs 2\.0 kB, but has 2\.0 kB; choose another disk"):
        data.build_cache("test", encode, "backbones")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(disk_room, "free_bytes", lambda folder: num_bytes)
    told: list[tuple[int, int, int]] = []
    folder = data.build_cache("test", encode, "backbones", lambda *progress: told.append(progress))
    assert (folder / "features.bin").stat().st_size == num_bytes
    assert told == [(done, 4, num_bytes) for done in (1, 2, 3, 4)]


def test_each_draw_of_the_benchmark_has_its_own_cache(root: Path, tmp_path: Path) -> None:
    first, second = (mini(root, variants=1, features=tmp_path, benchmark_seed=draw) for draw in (0, 1))
    assert first.build_cache("test", encode, "backbones") == tmp_path / "test"
    assert second.build_cache("test", encode, "backbones") == tmp_path / "test-benchmark1"
    high, low = ([batch.features.appearance[row] for batch in batches(second, "test")] for row in (0, 1))
    (tmp_path / "test-benchmark1").rename(tmp_path / "test-benchmark2")
    with pytest.raises(CacheError, match="benchmark_seed = 1, but this run has 2"):
        batches(mini(root, variants=1, features=tmp_path, benchmark_seed=2), "test")
    for row, alike in ((0, True), (1, False)):
        seen = [batch.features.appearance[row] for batch in batches(first, "test")]
        assert all(torch.equal(a, b) is alike for a, b in zip(seen, (high, low)[row], strict=True))


def test_a_smaller_run_reads_from_a_larger_cache_and_not_the_reverse(root: Path, tmp_path: Path) -> None:
    full, part = (mini(root, variants=2, features=tmp_path, training_clips=clips) for clips in (3, 1))
    for split in ("train", "val"):
        full.build_cache(split, encode, "backbones")
    assert len(batches(part, "train")) == 1
    (tmp_path / "train").rename(tmp_path / "kept")
    part.build_cache("train", encode, "backbones")
    with pytest.raises(CacheError, match="holds 3 versions of clips, but lacks 6 that this run shows"):
        batches(full, "train")


@pytest.mark.parametrize("split", ["train", "val"])
def test_cached_frames_do_not_change_a_byte(root: Path, tmp_path: Path, split: Any) -> None:
    cached, plain = mini(root, frames=tmp_path), mini(root)
    with pytest.raises(CacheError, match="3 clips are not in the frame cache"):
        batches(cached, "train")
    for name in ("train", "val"):
        cached.setup_split(name)
        cached.build_frames(name, cached.frames_of_clips(name), workers=1, progress=lambda done: None)
    for with_cache, without in zip(batches(cached, split), batches(plain, split), strict=True):
        assert with_cache.clips[1].degradation == without.clips[1].degradation is not None
        assert torch.equal(with_cache.frames, without.frames)
    info = with_cache.clips[1]
    assert (cached.pixels(info) == plain.pixels(info)).all()


def test_results_tell_what_made_the_low_quality_clips(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = mini(root, benchmark_seed=4).degradations()
    assert (told["version"], told["benchmark_seed"], told["source"]) == ("D-1.0", 4, "on the fly")
    assert told["golden"] is ("golden" not in caplog.text) and set(told["pixels"]) == set(DEGRADATIONS)


def test_results_of_cached_features_tell_of_the_machine_that_built_them(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built, told = {}, {}
    for name, hashes in (("elsewhere", {"defocus": "rounded"}), ("here", GOLDEN_HASHES)):
        monkeypatch.setattr(pixels, "pixel_hashes", lambda unseen, hashes=hashes: dict(hashes))
        built[name] = mini(root, variants=1, features=tmp_path / name)
        built[name].build_cache("test", encode, "backbones")
    for name, data in built.items():
        data.setup("test")
        told[name] = data.degradations()
        assert ("golden" in caplog.text) is (name == "elsewhere")
        caplog.clear()
    assert told["elsewhere"] == {
        "version": "D-1.0",
        "benchmark_seed": 0,
        "source": "cached features, on the fly",
        "pixels": {"defocus": "rounded"},
        "golden": False,
    }
    assert told["here"] == {**told["elsewhere"], "pixels": GOLDEN_HASHES, "golden": True}


def test_absolute_kernels_are_another_benchmark(root: Path) -> None:
    data = mini(root, kernels="absolute")
    assert data.conditions("test") == ("MiniSTVG, D-1.0-absolute", "test", 0, "mixed")
    assert data.provenance()["degradations"] == "D-1.0-absolute" and mini(root).provenance()["degradations"] == "D-1.0"


def test_a_cache_of_fresh_degradations_is_impossible(root: Path) -> None:
    with pytest.raises(ValueError, match=r"set --data\.init_args\.variants"):
        mini(root, features=Path("somewhere"))


def test_clips_of_different_lengths_and_sizes_are_padded_and_masked() -> None:
    def clip(length: int, height: int, width: int) -> Clip:
        target = Tube(0, 1, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))
        info = ClipInfo("i", "q", "declarative", Quality.HQ, None, tuple(range(length)), target, (9, 9), 9, 1.0, "v")
        inside = torch.ones(length, dtype=torch.bool)
        return Clip(info, torch.ones(length, 3, height, width), None, torch.ones(length, 4), inside)

    batch = collate([clip(2, 4, 6), clip(3, 5, 3)])
    assert batch.frames is not None and batch.frames.shape == (2, 3, 3, 5, 6)
    assert batch.frame_sizes == ((4, 6), (5, 3))
    assert batch.frame_mask.tolist() == [[True, True, False], [True, True, True]]
    assert batch.frames[0].sum() == 2 * 3 * 4 * 6 and batch.frames[1].sum() == 3 * 3 * 5 * 3
    assert batch.inside.tolist() == [[True, True, False], [True, True, True]]


def test_choices_can_be_made_on_the_validation_split(root: Path) -> None:
    data = mini(root, evaluation_split="val", benchmark_seed=0)
    seen = {info.item_id for batch in batches(data, "test") for info in batch.clips}
    assert seen == {info.item_id for batch in batches(mini(root), "val") for info in batch.clips}
    assert data.conditions("test") == data.conditions("fit") == ("MiniSTVG", "val", 0, "mixed")
    assert mini(root, benchmark_seed=7).conditions("test") == ("MiniSTVG", "test", 7, "mixed")


def test_a_half_of_the_validation_split_is_searched_and_the_other_compares(root: Path, tmp_path: Path) -> None:
    whole = mini(root, val_clips=12, variants=1, features=tmp_path, evaluation_split="val")
    whole.build_cache("val", encode, "backbones")
    halves = {}
    for half in ("search", "ablate"):
        data = mini(root, val_clips=12, variants=1, features=tmp_path, evaluation_split="val", validation_half=half)
        halves[half] = {info.item_id for batch in batches(data, "test") for info in batch.clips}
        assert data.conditions("test") == data.conditions("fit") == ("MiniSTVG", f"val_{half}", 0, "mixed")
        assert {data.half_of(item_id.split("/")[0]) for item_id in halves[half]} == {half}
        threshold = {info.item_id for batch in data.clean_validation_loader() for info in batch.clips}
        assert threshold == halves["search"], "what a gate opens at is chosen, too"
    whole.setup_split("val")
    assert halves["search"].isdisjoint(halves["ablate"])
    assert halves["search"] | halves["ablate"] == {record.item_id for record in whole.records["val"]}
    assert [whole.half_of(f"val-{index:05d}") for index in range(8)] == HALVES
    assert mini(root, validation_half="search").conditions("test").split == "test", "the test split has no halves"


def test_a_half_without_a_clip_is_refused(root: Path) -> None:
    data = mini(root, val_clips=4, validation_half="search")
    with pytest.raises(
        ValueError, match=r"no clip of 'val' is in its half 'search', .* show more, or set .*validation_half null"
    ):
        data.setup_split("val")


def test_the_matrix_is_of_the_split_that_is_tested(root: Path) -> None:
    data = mini(root, evaluation_conditions="matrix", test_clips=1)
    shown = [str(info.degradation) for batch in batches(data, "test") for info in batch.clips]
    assert len(shown) == 2 * 21 and len(set(shown)) == 21
    assert data.conditions("test") == ("MiniSTVG", "test", 0, "matrix")
    assert data.conditions("fit") == ("MiniSTVG", "val", 0, "mixed")
    assert len(batches(data, "val")[0].clips) == 2 * 2 * 2, "validation chooses by the benchmark's own mix"


def test_unseen_kinds_are_shown_by_a_test_alone_and_change_the_version_of_its_pixels_alone(
    root: Path, tmp_path: Path
) -> None:
    options = {"variants": 1, "features": tmp_path, "test_clips": 1, "evaluation_conditions": "unseen"}
    data = mini(root, **options)
    folders = [data.build_cache(split, encode, "backbones").name for split in ("train", "val", "test")]
    assert folders == ["train", "val", "test-unseen"]
    shown = [info.degradation for batch in batches(data, "test") for info in batch.clips]
    kinds = {degradation.kind for degradation in shown if degradation}
    assert len(shown) == 2 * 16 and kinds == {"compression", "noise", "partial"}
    told = data.degradations()
    assert told["version"] == data.provenance()["degradations"] == "D-1.1"
    assert set(told["pixels"]) == {*DEGRADATIONS, *kinds}
    assert data.conditions("test") == ("MiniSTVG", "test", 0, "unseen")
    for split in ("train", "val"):
        trained = [info.degradation for batch in batches(data, split) for info in batch.clips]
        assert {degradation.kind for degradation in trained if degradation} <= set(DEGRADATIONS)
    plain = mini(root, variants=1, features=tmp_path)
    plain.setup("fit")
    assert plain.caches.keys() == {"train", "val"} and plain.provenance()["degradations"] == "D-1.0", (
        "the same caches serve"
    )


def test_a_cache_serves_a_training_that_leaves_a_kind_out_as_far_as_its_variants_allow(
    root: Path, tmp_path: Path
) -> None:
    options = {"variants": 4, "features": tmp_path}
    whole = mini(root, **options)
    for split in ("train", "val"):
        whole.build_cache(split, encode, "backbones")
    left = whole.plan.variant("tune-00000", 0).kind
    data = mini(root, **options, left_out_kinds=[left])
    trained = {info.degradation for batch in batches(data, "train") for info in batch.clips if info.degradation}
    assert trained and left not in {degradation.kind for degradation in trained}
    assert data.plan.evaluation(["a"]) == whole.plan.evaluation(["a"])
    part = mini(root, variants=1, features=tmp_path / "part", left_out_kinds=[left])
    with pytest.raises(
        ValueError, match=r"none of the 1 degraded variants is left of \d training clips, the first 'tune-00000'"
    ):
        part.build_cache("train", encode, "backbones")


def test_caches_of_other_conditions_stand_side_by_side(root: Path, tmp_path: Path) -> None:
    options = {"variants": 1, "features": tmp_path, "test_clips": 1}
    mini(root, **options).build_cache("test", encode, "backbones")
    data = mini(root, **options, evaluation_conditions=["HQ", "defocus:3"])
    folder = data.build_cache("test", encode, "backbones")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test", "test-HQ+defocus3"]
    assert len(data.open_cache("test")) == 2
    (batch,) = batches(data, "test")
    assert folder.name == "test-HQ+defocus3" and batch.features is not None
    assert [str(info.degradation) for info in batch.clips] == ["None", "defocus:3"] * 2
    assert data.cache_folder("train") == tmp_path / "train", "what is trained on does not depend on it"


def test_degraded_training_clips_bring_their_high_quality_twins(root: Path) -> None:
    for batch in batches(mini(root, twins=True, batch_size=4, training_clips=2), "train"):
        low = [info for info in batch.clips if info.quality is Quality.LQ]
        assert batch.twins is not None and batch.twins.frames is not None and batch.frames is not None
        assert [info.item_id for info in batch.twins.clips] == [info.item_id for info in low]
        assert all(info.quality is Quality.HQ for info in batch.twins.clips) and batch.twins.twins is None
        assert batch.twins.frames.shape == (2, 16, 3, 128, 128)
        assert not torch.equal(batch.twins.frames, batch.frames[batch.qualities == Quality.LQ])
    for batch in batches(mini(root, twins=True), "test"):
        assert batch.twins is None


def test_twins_come_from_the_cache_of_features_and_move_with_their_batch(root: Path, tmp_path: Path) -> None:
    data = mini(root, twins=True, variants=1, features=tmp_path)
    data.prepare_data()
    for split in ("train", "val"):
        data.build_cache(split, encode, "backbones")
    cache = FeatureCache(tmp_path / "train", data.cache_provenance("train"))
    for batch in batches(data, "train"):
        moved = batch.to("cpu")
        assert moved.twins is not None and moved.twins.features is not None
        clip_id = next(record.clip_id for record in data.records["train"] if record.item_id == batch.clips[1].item_id)
        assert torch.equal(moved.twins.features.appearance, cache.read(feature_key(clip_id, None)).appearance)


def test_clean_clips_are_drawn_from_the_tuning_set_in_high_quality(root: Path) -> None:
    data = mini(root, training_clips=4, twins=True)
    data.prepare_data()
    data.setup("fit")
    shown = [info for batch in data.clean_training_loader(3) for info in batch.clips]
    assert {info.quality for info in shown} == {Quality.HQ}
    clips = {record.item_id: record.clip_id for record in data.records["train"]}
    assert len({clips[info.item_id] for info in shown}) == len(shown) == 3, "no clip twice, though it has two sentences"
    others = [
        [info.item_id for batch in mini_of(root, seed).clean_training_loader(9) for info in batch.clips]
        for seed in (0, 0, 1)
    ]
    assert others[0] == others[1] != others[2] and len(others[0]) == 4, "all where there are fewer"


@pytest.fixture
def five_training_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all of the tuning split."""
    monkeypatch.setitem(data_module.TRAINING_CLIPS, "tune", 5)


@pytest.mark.usefixtures("five_training_clips")
@pytest.mark.parametrize("options", [{"training_clips": 2}, {"training_clips": None, "training_items": 4}])
def test_extra_clips_come_from_beyond_the_training_set_half_of_them_degraded(root: Path, options: Any) -> None:
    data = mini(root, extra_clips=3, batch_size=4, **options)
    for batch in batches(data, "train"):
        assert batch.extra is not None and batch.extra.frames is not None
        assert batch.extra.frames.shape == (12, 16, 3, 128, 128) and batch.extra.frame_sizes == ((128, 128),) * 12
        assert batch.extra.qualities.tolist() == [1, 0, 1, 0, 1, 0] * 2, "beside samples of HQ, LQ, HQ and LQ"
        moved = batch.to("meta")
        assert moved.extra is not None and moved.extra.frames is not None and moved.extra.frames.is_meta
    sampler = data.train_dataloader().sampler
    extra = [other for draw in sampler for other in draw.extra]  # type: ignore[attr-defined]
    trained = {record.clip_id for record in data.records["train"]}
    assert [record.clip_id for record in data.extra_records] == ["tune-00002", "tune-00003", "tune-00004"]
    assert trained == {"tune-00000", "tune-00001"}
    assert {other.index for other in extra} <= {4, 5, 6}, "behind the four sentences that are trained on"
    assert not any(batch.extra for batch in data.val_dataloader())


def test_nothing_but_the_quality_is_known_of_an_extra_clip() -> None:
    names = {field.name for field in fields(QualityBatch)}
    assert names == {"frames", "features", "frame_mask", "frame_sizes", "qualities"}


@pytest.mark.usefixtures("five_training_clips")
def test_extra_clips_leave_the_training_samples_as_they_are_and_follow_the_seed(root: Path) -> None:
    def draws(**options: Any) -> list[Draw]:
        data = mini(root, training_clips=2, **options)
        data.prepare_data()
        data.setup("fit")
        return list(data.train_dataloader().sampler)  # type: ignore[arg-type]

    one, again, other = draws(extra_clips=2), draws(extra_clips=2), draws(extra_clips=2, seed=1)
    assert one == again and [draw.extra for draw in one] != [draw.extra for draw in other]
    assert [replace(draw, extra=()) for draw in one] == draws()


@pytest.mark.usefixtures("five_training_clips")
def test_extra_clips_are_read_from_the_cache_of_features(root: Path, tmp_path: Path) -> None:
    options = {"training_clips": 2, "variants": 1, "features": tmp_path}
    data = mini(root, **options, extra_clips=1)
    for split in ("train", "val"):
        data.build_cache(split, encode, "backbones")
    cache = FeatureCache(tmp_path / "train", data.cache_provenance("train"))
    (batch, *_), (draw, *_) = batches(data, "train"), data.train_dataloader().sampler  # type: ignore[misc]
    clip_id = data.extra_records[draw.extra[0].index - len(data.records["train"])].clip_id
    expected = cache.read(feature_key(clip_id, data.plan.variant(clip_id, 0)))
    assert batch.extra is not None and batch.extra.features is not None and batch.extra.frames is None
    assert torch.equal(batch.extra.features.appearance[:1], expected.appearance)
    assert batches(mini(root, **options), "train")[0].extra is None, "a run without them reads the same cache"


@pytest.mark.usefixtures("five_training_clips")
def test_extra_clips_of_nothing_but_a_kind_that_is_left_out_are_left_out_too(root: Path) -> None:
    # The one variant of the last three clips is of low light, defocus and defocus, that of the first two of neither.
    options = {"training_clips": 2, "variants": 1, "benchmark_seed": 1, "extra_clips": 1}
    data = mini(root, **options, left_out_kinds=["low_light"])
    data.prepare_data()
    data.setup("fit")
    assert [record.clip_id for record in data.extra_records] == ["tune-00003", "tune-00004"]
    with pytest.raises(ValueError, match="none of the 1 degraded variants is left of 3 training clips"):
        mini(root, **options, left_out_kinds=["low_light", "defocus"]).setup("fit")


@pytest.mark.usefixtures("five_training_clips")
def test_extra_clips_that_teach_nothing_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"extra_clips 1 needs clips .* but all 5 are; train on fewer, or set it to 0"):
        batches(mini(root, training_clips=None, extra_clips=1), "train")
    with pytest.raises(ValueError, match=r"without --data\.init_args\.mixed none is degraded"):
        mini(root, extra_clips=1, mixed=False)


def test_the_clean_validation_is_every_sample_once_in_high_quality_on_every_process(root: Path) -> None:
    data = mini(root)
    data.prepare_data()
    data.setup("fit")
    data.trainer = SimpleNamespace(strategy=ON_A_CPU, global_rank=1, world_size=2, num_devices=2)  # type: ignore[assignment]
    shown = [info for batch in data.clean_validation_loader() for info in batch.clips]
    assert [info.item_id for info in shown] == [record.item_id for record in data.records["val"]]
    assert {info.quality for info in shown} == {Quality.HQ}
    blurred = mini(root, evaluation_split="val", evaluation_conditions=["defocus"])
    with pytest.raises(ValueError, match=r"'val' in high quality, but it is shown in defocus:1, .*; add HQ to"):
        blurred.clean_validation_loader()


def mini_of(root: Path, seed: int) -> MiniSTVG:
    data = mini(root, training_clips=4, seed=seed)
    data.prepare_data()
    data.setup("fit")
    return data
