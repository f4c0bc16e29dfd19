"""Sizes, parts and cuts of training clips: the draws, the boxes and the pixels of TubeDETR."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import HCSTVG
from datamodules.clips import ClipDataset
from datamodules.pixels import PixelSource
from datamodules.quality import Draw
from datamodules.records import Record
from datamodules.sampling import FramesByClock
from datamodules.scale_and_crop import ScaleAndCrop, ScaledPart
from datamodules.transforms import ShortSide, scale
from stvg_nst.types import Clip, Tube
from tests.datamodules.published import hcstvg_item

AT_128 = {"sizes": (96, 128), "sizes_before_crop": (80, 100, 120), "smallest_crop": 64}


class Grey(PixelSource):
    """Frames of 72 x 96 without a video."""

    def read(self, record: Record, frame_ids: Any, degradation: Any) -> np.ndarray:
        return np.zeros((len(frame_ids), *record.size, 3), np.uint8)


def record(start: int, xywh: list[list[int]], segment: tuple[int, int], fps: float) -> Record:
    boxes = torch.tensor(xywh).float()
    boxes[:, 2:] += boxes[:, :2]
    tube = Tube(start, start + len(boxes), boxes)
    return Record("i", "c", Path("v.mp4"), "q", "declarative", tube, segment, segment[1], fps, (72, 96))


def shown(clip: Record, augmentation: ScaleAndCrop | None, seed: int | None) -> Clip:
    dataset = ClipDataset([clip], FramesByClock(), ShortSide(128), Grey(), None, augmentation)
    return dataset[Draw(0, None, chance=seed)]


def check(clip: Record, expected: dict[str, Any], at_most: int) -> None:
    """One sample of a golden file, the random number that is drawn next included."""
    seed, augmentation = expected["seed"], ScaleAndCrop(**AT_128, at_most=at_most)
    ours = shown(clip, augmentation, seed)
    assert ours.frames is not None
    assert list(ours.info.frame_ids) == expected["frame_ids"]
    assert [ours.frames.shape[index] for index in (1, 0, 2, 3)] == expected["fast_shape"]
    positions = ours.inside.nonzero().flatten().tolist()
    assert [positions[0], positions[-1]] == expected["inside_first_last"]
    assert ours.inside.tolist() == [box is not None for box in expected["boxes_cxcywh"]]
    boxes = torch.tensor([box for box in expected["boxes_cxcywh"] if box is not None])
    torch.testing.assert_close(ours.boxes[ours.inside], boxes, atol=1e-5, rtol=0)
    if seed is not None:
        random, frame_ids = Random(seed), FramesByClock()(clip)
        augmentation.draw_part(clip, frame_ids, random, torch.Generator().manual_seed(seed))
        augmentation.draw_frames(clip, frame_ids, random)
        assert random.random() == expected["next_random"]


@pytest.mark.parametrize("item", range(8))
def test_items_of_hcstvg_are_those_of_tubedetr(shared: Path, item: int) -> None:
    found = json.loads((shared / "tubedetr" / "golden" / "11_items_hcstvg.json").read_text())["items"][item]
    count = found["frame_count"]
    # TubeDETR counts the first frame of a tube from 0.
    clip = record(found["st_frame"], found["true_boxes_xywh"], (0, count - 1), count / 20)
    for sample in (found["evaluation"], *found["training"]):
        check(clip, sample, at_most=200)


@pytest.mark.parametrize("item", range(7))
def test_items_of_vidstg_are_those_of_tubedetr(shared: Path, item: int) -> None:
    found = json.loads((shared / "tubedetr" / "golden" / "12_items_vidstg.json").read_text())["items"][item]
    boxes = [found["true_boxes_xywh"][str(frame)] for frame in range(*found["tube"])]
    clip = record(found["tube"][0], boxes, tuple(found["segment"]), found["fps"])
    for sample in (found["evaluation"], *found["training"]):
        check(clip, sample, at_most=200)
    for sample in found["training_at_most_20"]:
        check(clip, sample, at_most=20)


def test_a_box_follows_its_pixels() -> None:
    """The rectangle that a clip shows is found where its box says, in every size and part."""
    frame = np.zeros((1, 72, 96, 3), np.uint8)
    frame[:, 20:50, 30:70] = 255
    clip = record(0, [[30, 20, 40, 30]], (0, 1), 5)
    augmentation, parts = ScaleAndCrop(**AT_128), set()
    for seed in range(40):
        drawn = augmentation.draw_part(clip, (0,), Random(seed), torch.Generator().manual_seed(seed))
        white = np.argwhere(drawn(frame)[0, :, :, 0] > 127)
        (top, left), (bottom, right) = white.min(axis=0), white.max(axis=0) + 1
        expected = torch.tensor([[left, top, right, bottom]]).float()
        torch.testing.assert_close(drawn.boxes(clip.target.boxes, clip.size), expected, atol=2, rtol=0)
        parts.add(drawn.part)
    assert len(parts) > 10


def test_a_part_that_loses_the_target_is_not_cut_out() -> None:
    clip = record(0, [[0, 0, 6, 6], [90, 66, 6, 6]], (0, 2), 5)

    def cut(frame_ids: tuple[int, ...], seed: int) -> ScaledPart:
        return ScaleAndCrop(**AT_128).draw_part(clip, frame_ids, Random(seed), torch.Generator().manual_seed(seed))

    both, first = [cut((0, 1), seed) for seed in range(100)], [cut((0,), seed) for seed in range(100)]
    for part in both:
        x1, y1, x2, y2 = part.boxes(clip.target.boxes, clip.size).T
        assert (x1 < x2).all() and (y1 < y2).all()
    taken = [sum(part.part != part.scaled for part in parts) for parts in (both, first)]
    assert 0 < taken[0] < taken[1], "boxes on frames that are not sampled do not count"


def test_two_scales_round_to_grey_levels_between() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 72, 96, 3), dtype=np.uint8)
    part = ScaledPart((80, 106), (3, 7), (64, 70), (96, 105))
    assert np.array_equal(part(frames), scale(scale(frames, (80, 106))[:, 3:67, 7:77], (96, 105)))


@pytest.mark.parametrize("frame_ids", [(0, 10, 20, 30), (0,)])
def test_a_tube_between_two_frames_allows_any_cut(frame_ids: tuple[int, ...]) -> None:
    clip, cuts = record(4, [[0, 0, 9, 9]], (0, 40), 25), set()
    for seed in range(200):
        cut = ScaleAndCrop(at_most=3).draw_frames(clip, frame_ids, Random(seed))
        assert 1 <= len(cut) <= 3 and set(cut) <= set(frame_ids)
        cuts.add(cut)
    assert len(cuts) == (1 if len(frame_ids) == 1 else 5)  # of two frames or three, side by side


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": []}, r"got sizes \[\], sizes_before_crop \[200, 250, 300\] and at_most 200"),
        ({"at_most": 0}, "at_most 0"),
        ({"smallest_crop": 201}, r"smallest_crop must lie in \[1, 200\], .* got 201"),
        ({"sizes": [96, 112]}, r"smallest_crop must lie in \[1, 187\], .* got 192"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleAndCrop(**options)


def module(root: Path, **changes: Any) -> HCSTVG:
    options = {"expect_official_counts": False, "num_workers": 0, "held_out": 0.5, "resizing": "short_side", **changes}
    return HCSTVG(root, **options)


def test_training_clips_of_several_sizes_make_a_batch(hcstvg: Callable[..., Path]) -> None:
    root = hcstvg(train={f"{film}_film{film:07d}.mp4": hcstvg_item() for film in range(8)})
    drawn = ScaleAndCrop(sizes=(24, 32), sizes_before_crop=(20, 28), smallest_crop=16)
    data = module(root, augmentation=drawn, resolution=32, frame_rate=1.0)
    data.setup("fit")
    loader = data.train_dataloader()
    assert loader.dataset.batch_bytes([Draw(0, None)]) == 4 * 19 * 3 * 32 * 53, "the largest that may be drawn"
    sizes, lengths = set(), set()
    for epoch in range(4):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            sizes |= set(batch.frame_sizes)
            lengths |= {len(info.frame_ids) for info in batch.clips}
            assert ((batch.boxes[batch.inside] >= 0) & (batch.boxes[batch.inside] <= 1)).all()
    assert len(sizes) > 3 and len(lengths) > 3
    assert {min(size) for size in sizes} >= {24, 32} and max(max(size) for size in sizes) <= 53


@pytest.mark.parametrize("changes", [{"resizing": "height"}, {"resolution": 420}, {"resolution": None}])
def test_training_and_evaluation_have_one_size(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"up to 352 need an evaluation at that, got resizing .*resizing short_side"):
        module(tmp_path, augmentation=ScaleAndCrop(), **{"resolution": 352, **changes})
