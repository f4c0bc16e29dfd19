"""Cuts and mirrors of training clips; that they are the published code's is in test_sampling.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from datamodules import HCSTVG
from datamodules.augmentation import Augmentation, crop_in_time, swap_sides
from tests.datamodules.published import hcstvg_item

TRAIN = {f"{i}_film{film:07d}.mp4": hcstvg_item() for i in range(2) for film in range(8)}


def test_a_cut_keeps_all_frames_of_the_target() -> None:
    lengths = set()
    for seed in range(200):
        kept = crop_in_time(range(100, 120), 105, 110, Random(seed))
        assert kept == tuple(range(kept[0], kept[-1] + 1)) and {105, 109} <= set(kept)
        lengths.add(len(kept))
    assert len(lengths) > 10
    assert crop_in_time(range(5), 0, 5, Random(0)) == tuple(range(5))
    assert crop_in_time((0, 4, 8), 1, 3, Random(0)) == (0, 4, 8), "a target between two frames"


@pytest.mark.parametrize(
    ("query", "swapped"),
    [
        ("the Left man turns right, then leftwards", "the right man turns left, then leftwards"),
        ("who is bright?", "who is bright?"),
    ],
)
def test_only_whole_words_swap_sides(query: str, swapped: str) -> None:
    assert swap_sides(query) == swapped


@pytest.mark.parametrize("options", [{"flip": 1.1}, {"crop": -0.1}])
def test_a_probability_is_one(options: dict[str, float]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=rf"probability '{name}' must lie in \[0, 1\], got {value}"):
        Augmentation(**options)


def module(root: Path, **changes: Any) -> HCSTVG:
    return HCSTVG(root, expect_official_counts=False, num_workers=0, held_out=0.5, resolution=None, **changes)


def test_a_mirrored_clip_shows_the_mirrored_answer(hcstvg: Callable[..., Path]) -> None:
    items = {name: {**item, "caption": "the man on the left"} for name, item in TRAIN.items()}
    root = hcstvg(train=items, test=items)
    shown = {}
    for flip in (0.0, 1.0):
        data = module(root, augmentation=Augmentation(flip=flip, crop=0.0))
        data.setup("fit")
        shown[flip] = next(iter(data.train_dataloader()))
    plain, mirrored = shown[0.0], shown[1.0]
    assert mirrored.queries == ("the man on the right",) * 2 and plain.queries == ("the man on the left",) * 2
    assert torch.equal(mirrored.frames, plain.frames.flip(-1)) and torch.equal(mirrored.inside, plain.inside)
    expected = plain.boxes.clone()
    expected[..., 0] = 1 - expected[..., 0]
    torch.testing.assert_close(mirrored.boxes[plain.inside], expected[plain.inside])

    data = module(root, augmentation=Augmentation(flip=1.0, crop=1.0))
    data.setup("test")
    batch = next(iter(data.test_dataloader()))
    assert batch.queries == ("the man on the left",), "a test sees clips as they are"


def test_every_epoch_and_seed_draws_anew(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train=TRAIN)

    def lengths(seed: int, epoch: int) -> list[tuple[int, ...]]:
        data = module(root, frame_rate=1.0, seed=seed, augmentation=Augmentation(crop=1.0))
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return sorted(info.frame_ids for batch in loader for info in batch.clips)

    assert lengths(0, 0) == lengths(0, 0)
    assert len({tuple(lengths(*where)) for where in ((0, 0), (0, 1), (1, 0))}) == 3


def test_cached_frames_are_augmented_as_decoded_ones(hcstvg: Callable[..., Path], tmp_path: Path) -> None:
    root = hcstvg(train=TRAIN)
    options: dict[str, Any] = {"frame_rate": 1.0, "augmentation": Augmentation(flip=0.5, crop=1.0)}
    cached, plain = module(root, frames=tmp_path / "frames", **options), module(root, **options)
    for split in ("train", "val"):
        cached.setup_split(split)
        cached.build_frames(split, cached.frames_of_clips(split), workers=1, progress=lambda done: None)
    for data in (cached, plain):
        data.setup("fit")
    for ours, theirs in zip(cached.train_dataloader(), plain.train_dataloader(), strict=True):
        assert torch.equal(ours.frames, theirs.frames) and torch.equal(ours.boxes, theirs.boxes)


def test_cuts_that_are_sampled_anew_are_not_cached(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"samples others of every cut: set its crop to 0, or .*frames null"):
        module(tmp_path, frames=tmp_path, augmentation=Augmentation(crop_of="segment"))


def test_cached_features_are_not_augmented(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features null to augment them"):
        module(tmp_path, features=tmp_path, variants=1, augmentation=Augmentation())
