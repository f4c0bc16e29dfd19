from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stvg_nst.inference import join_passes, join_verdicts, split_passes
from stvg_nst.tubes import decode_tubes, interpolate_boxes, sample_tubes
from stvg_nst.types import BackboneFeatures, Batch, ClipInfo, GroundingOutput
from tests.stvg_nst.test_tubes import clip


def batch_of(*clips: ClipInfo) -> Batch:
    """Frames whose every pixel is their position in the clip, in units of 1/1000, plus the clip's index."""
    lengths = torch.tensor([len(info.frame_ids) for info in clips])
    time = torch.arange(int(lengths.max()))
    frame_mask = time < lengths[:, None]
    values = torch.arange(len(clips))[:, None] + time / 1000
    return Batch(
        clips=clips,
        frames=values[..., None, None, None].expand(-1, -1, 3, 4, 4),
        features=None,
        frame_mask=frame_mask,
        frame_sizes=((4, 4),) * len(clips),
        boxes=values[..., None].expand(-1, -1, 4),
        inside=frame_mask,
        qualities=torch.arange(len(clips)),
    )


def answer(boxes: Tensor, start_end: Tensor, frame_mask: Tensor) -> GroundingOutput:
    return GroundingOutput(boxes=boxes[None], start_end=start_end[None], frame_mask=frame_mask)


def spiked(part: Batch, *spans: tuple[int, int]) -> GroundingOutput:
    """Boxes that say which frame and clip the network saw; one span of positions for each clip."""
    assert part.frames is not None
    x = part.frames[:, :, 0, 0, 0]
    logits = torch.zeros(*x.shape, 2)
    for row, (first, last) in enumerate(spans):
        logits[row, first, 0] = logits[row, last, 1] = 9
    return answer(torch.stack((x % 1, x % 1, 0 * x, 0 * x), dim=-1), logits, part.frame_mask)


def test_a_single_pass_is_the_batch_itself() -> None:
    batch = batch_of(clip(range(4)))
    assert split_passes(batch, "single_pass") == (batch,)
    output = spiked(batch, (1, 2))
    (tube,), (expected,) = join_passes([output], batch.clips, "single_pass"), decode_tubes(output, batch.clips)
    assert (tube.start, tube.stop) == (expected.start, expected.stop) == (1, 3)
    torch.testing.assert_close(tube.boxes, expected.boxes)


def test_two_passes_hold_every_frame_once_and_every_label_of_it() -> None:
    batch = batch_of(clip([0, 3, 5, 8, 9]), clip([7]), clip([2, 4, 6]))
    even, odd = split_passes(batch, "two_pass")
    assert [info.frame_ids for info in even.clips] == [(0, 5, 9), (7,), (2, 6)]
    assert [info.frame_ids for info in odd.clips] == [(3, 8), (4,)]
    assert even.frame_mask.sum(1).tolist() == [3, 1, 2] and odd.frame_mask.sum(1).tolist() == [2, 1]
    assert odd.qualities.tolist() == [0, 2] and len(odd.frame_sizes) == 2
    for part in (even, odd):
        assert part.frames is not None
        torch.testing.assert_close(part.frames[:, :, 0, 0, 0], part.boxes[..., 0])
        assert torch.equal(part.inside, part.frame_mask)
    torch.testing.assert_close(odd.boxes[:, 0, 0], torch.tensor([0.001, 2.001]))


def test_spans_are_united_and_boxes_come_from_both_passes() -> None:
    batch = batch_of(clip([0, 2, 4, 6, 8, 10], (1000, 1000)))
    even, odd = split_passes(batch, "two_pass")
    (tube,) = join_passes([spiked(even, (1, 2)), spiked(odd, (0, 1))], batch.clips, "two_pass")
    # Even positions are frames 0, 4, 8; odd ones 2, 6, 10.
    assert (tube.start, tube.stop) == (2, 9)
    torch.testing.assert_close(tube.boxes[:, 0], torch.tensor([1, 1.5, 2, 2.5, 3, 3.5, 4]), atol=1e-4, rtol=0)


def test_clips_of_one_frame_are_seen_once() -> None:
    batch = batch_of(clip([7]))
    (only,) = split_passes(batch, "two_pass")
    (tube,) = join_passes([spiked(only, (0, 0))], batch.clips, "two_pass")
    assert (tube.start, tube.stop) == (7, 8)


def test_two_passes_over_cached_features_are_refused() -> None:
    batch = batch_of(clip(range(4)))
    features = BackboneFeatures(torch.zeros(1, 4, 1, 1, 1), torch.zeros(1, 4, 1, 1, 1), torch.ones(1, 1, 1).bool())
    with pytest.raises(
        ValueError, match=r"two_pass needs frames, got cached features: .*--data.init_args.features null"
    ):
        split_passes(replace(batch, frames=None, features=features), "two_pass")


# --- against the official post-processing -------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["c0", "c1", "c2", "c3"])
def test_one_pass_is_read_as_in_the_original(shared: Path, case: str) -> None:
    with np.load(shared / "cgstvg" / "golden" / "10_postprocess.npz") as arrays:
        data = {name.removeprefix(f"{case}_"): arrays[name] for name in arrays.files if name.startswith(case)}
    boxes, logits = torch.from_numpy(data["boxes"])[None], torch.from_numpy(data["sted"])
    info = clip(data["frame_ids"].tolist(), tuple(data["ori_hw"].tolist()))
    (sampled,) = sample_tubes(answer(boxes, logits, torch.ones(boxes.shape[:2], dtype=torch.bool)), [info])
    assert (sampled.start, sampled.stop) == tuple(data["out_sted"])
    expected = torch.from_numpy(data["out_boxes"])
    torch.testing.assert_close(sampled.boxes.clamp(min=0), expected, atol=2e-5 * max(info.native_size), rtol=0)


def test_boxes_are_interpolated_as_in_the_original(shared: Path) -> None:
    with np.load(shared / "cgstvg" / "golden" / "11_linear_interp.npz") as arrays:
        known, frames = arrays["in_frames"].tolist(), arrays["out_frames"].tolist()
        dense = interpolate_boxes(known, torch.from_numpy(arrays["in_boxes"]), frames[0], frames[-1] + 1)
        torch.testing.assert_close(dense, torch.from_numpy(arrays["out_boxes"]))


def still(logits: Tensor, durations: Sequence[int]) -> GroundingOutput:
    """Of clips of so many frames, with one box all the time."""
    frame_mask = torch.arange(logits.shape[1]) < torch.tensor(durations)[:, None]
    return answer(torch.full((*logits.shape[:2], 4), 0.5), logits, frame_mask)


@pytest.mark.parametrize("case", ["plain", "one_frame", "two_frames", "all_equal", "padded_alone"])
def test_spans_are_those_of_tubedetr(shared: Path, case: str) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / "09_postprocess.json").read_text())["spans"]
    (found,) = (entry for entry in golden if entry["name"] == case)
    clips = [clip(frame_ids) for frame_ids in found["frame_ids"]]
    logits = torch.tensor(found["start_end_logits"])
    spans = [[tube.start, tube.stop] for tube in sample_tubes(still(logits, found["durations"]), clips)]
    assert spans == found["spans"]


def test_padding_has_no_part_in_a_span_unlike_in_tubedetr(shared: Path) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / "09_postprocess.json").read_text())["spans"]
    batch, alone = (
        next(entry for entry in golden if entry["name"] == f"padded_{name}") for name in ("official", "alone")
    )
    clips = [clip(frame_ids) for frame_ids in batch["frame_ids"]]
    first, second = sample_tubes(still(torch.tensor(batch["start_end_logits"]), batch["durations"]), clips)
    assert [first.start, first.stop] == batch["spans"][0]
    assert [second.start, second.stop] == alone["spans"][0] != batch["spans"][1]


def test_boxes_are_those_of_tubedetr(shared: Path) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / "09_postprocess.json").read_text())["boxes"]
    boxes, sizes = torch.tensor(golden["pred_boxes"])[:, None], golden["sizes_hw"]
    shown = answer(boxes, torch.zeros(len(boxes), 1, 2), torch.ones(len(boxes), 1, dtype=torch.bool))
    tubes = sample_tubes(shown, [clip([0], tuple(size)) for size in sizes])
    torch.testing.assert_close(
        torch.cat([tube.boxes for tube in tubes]), torch.tensor(golden["xyxy"]), atol=1e-3, rtol=0
    )


def test_a_router_s_verdict_is_the_mean_of_the_passes_that_show_the_clip() -> None:
    clips = [clip([0, 3, 5]), clip([7]), clip([2, 4])]
    passes = [torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.4, 1.0])]
    torch.testing.assert_close(join_verdicts(passes, clips, "two_pass"), torch.tensor([0.3, 0.4, 0.8]))
    assert torch.equal(join_verdicts(passes[:1], clips, "single_pass"), passes[0])
