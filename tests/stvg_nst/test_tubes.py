from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from stvg_nst.tubes import decode_tubes, interpolate_boxes
from stvg_nst.types import ClipInfo, GroundingOutput, Quality, Tube

torch.set_num_threads(1)


def clip(frame_ids: Sequence[int], native_size: tuple[int, int] = (100, 200)) -> ClipInfo:
    return ClipInfo(
        item_id="item",
        query="a red ball",
        sentence_type="declarative",
        quality=Quality.HQ,
        degradation=None,
        frame_ids=tuple(frame_ids),
        target=Tube(0, 1, torch.zeros(1, 4)),
        native_size=native_size,
        native_length=max(frame_ids) + 1,
        fps=25.0,
        video="ball.mp4",
    )


def output(start_end: Tensor, boxes: Tensor | None = None, lengths: Sequence[int] | None = None) -> GroundingOutput:
    """One-stage answer from (B, T, 2) logits; by default a centred box, and every frame real."""
    batch, time, _ = start_end.shape
    boxes = torch.tensor([0.5, 0.5, 0.2, 0.4]).expand(batch, time, 4) if boxes is None else boxes
    lengths = [time] * batch if lengths is None else lengths
    frame_mask = torch.arange(time) < torch.tensor(lengths).unsqueeze(1)
    return GroundingOutput(boxes=boxes[None], start_end=start_end[None], frame_mask=frame_mask)


def spiked(time: int, start: int, last: int) -> Tensor:
    logits = torch.zeros(1, time, 2)
    logits[0, start, 0] = logits[0, last, 1] = 5
    return logits


def test_span_and_native_pixels_by_hand() -> None:
    (tube,) = decode_tubes(output(spiked(4, 1, 2)), [clip([0, 4, 8, 12])])
    assert (tube.start, tube.stop) == (4, 9)
    torch.testing.assert_close(tube.boxes, torch.tensor([80.0, 30.0, 120.0, 70.0]).expand(5, 4))


def test_boxes_move_linearly_between_sampled_frames() -> None:
    boxes = torch.tensor([[[0.2, 0.5, 0.2, 0.2], [0.6, 0.5, 0.2, 0.2]]])
    (tube,) = decode_tubes(output(spiked(2, 0, 1), boxes), [clip([10, 14])])
    torch.testing.assert_close(tube.boxes[:, 0], torch.tensor([20.0, 40.0, 60.0, 80.0, 100.0]))


def test_the_last_stage_is_the_prediction() -> None:
    early, late = output(spiked(4, 0, 1)), output(spiked(4, 2, 3))
    both = GroundingOutput(
        boxes=torch.cat([early.boxes * 0, late.boxes]),
        start_end=torch.cat([early.start_end, late.start_end]),
        frame_mask=late.frame_mask,
    )
    (tube,) = decode_tubes(both, [clip(range(4))])
    assert (tube.start, tube.stop) == (2, 4) and tube.boxes.sum() > 0


def test_boxes_are_clamped_to_the_frame_before_interpolation() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]])
    (tube,) = decode_tubes(output(spiked(2, 0, 1), boxes), [clip([0, 2], native_size=(10, 20))])
    expected = torch.tensor([[0.0, 0, 10, 5], [5, 2.5, 15, 7.5], [10, 5, 20, 10]])
    torch.testing.assert_close(tube.boxes, expected)


def test_the_first_pair_wins_among_equals() -> None:
    (tube,) = decode_tubes(output(torch.zeros(1, 5, 2)), [clip(range(5))])
    assert (tube.start, tube.stop) == (0, 2)


def test_padding_is_never_chosen_and_does_not_matter() -> None:
    logits = torch.cat([spiked(5, 3, 4), spiked(5, 3, 4)])
    padded, whole = decode_tubes(output(logits, lengths=[3, 5]), [clip(range(3)), clip(range(5))])
    assert (padded.start, padded.stop) == (0, 2)
    assert (whole.start, whole.stop) == (3, 5)


def test_a_single_real_frame_is_its_own_span() -> None:
    (tube,) = decode_tubes(output(torch.zeros(1, 3, 2), lengths=[1]), [clip([7])])
    assert (tube.start, tube.stop) == (7, 8)


def test_agrees_with_a_search_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        time = int(torch.randint(2, 9, (), generator=generator))
        lengths = torch.randint(1, time + 1, (3,), generator=generator).tolist()
        logits = 3 * torch.randn(3, time, 2, generator=generator)
        tubes = decode_tubes(output(logits, lengths=lengths), [clip(range(0, 3 * n, 3)) for n in lengths])
        for tube, length, clip_logits in zip(tubes, lengths, logits, strict=True):
            start, last = clip_logits[:length].double().log_softmax(0).T.tolist()
            pairs = [(i, j) for i in range(length) for j in range(i + 1, length)] or [(0, 0)]
            i, j = max(pairs, key=lambda pair: start[pair[0]] + last[pair[1]])
            assert (tube.start, tube.stop) == (3 * i, 3 * j + 1)


def test_half_precision_logits_are_scored_in_float32() -> None:
    # In bfloat16 the log-probabilities of frames 1 and 2 would be rounded to equal scores, and the first would win.
    logits = torch.zeros(1, 400, 2, dtype=torch.bfloat16)
    logits[0, 1, 0], logits[0, 2, 0] = 0.0078125, 0.015625
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (tube,) = decode_tubes(output(logits), [clip(range(400))])
    assert (tube.start, tube.boxes.dtype) == (2, torch.float32)


@pytest.mark.parametrize("where", ["start_end", "boxes"])
def test_an_answer_that_is_not_finite_raises(where: str) -> None:
    answer = output(torch.zeros(1, 3, 2), torch.full((1, 3, 4), 0.5))
    getattr(answer, where)[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="clip 'item' is not finite"):
        decode_tubes(answer, [clip(range(3))])


def test_interpolation_keeps_sampled_frames_and_is_linear() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        steps = torch.randint(1, 6, (6,), generator=generator)
        frame_ids = (10 + steps.cumsum(0)).tolist()
        boxes = torch.rand(6, 4, generator=generator) * 300
        start, stop = frame_ids[0], frame_ids[-1] + 1
        dense = interpolate_boxes(frame_ids, boxes, start, stop)
        assert dense.shape == (stop - start, 4)
        assert torch.equal(dense[torch.tensor(frame_ids) - start], boxes)
        slope = torch.tensor([[float(2 * frame), 1, -frame, 0] for frame in frame_ids])
        line = torch.tensor([[float(2 * frame), 1, -frame, 0] for frame in range(start, stop)])
        torch.testing.assert_close(interpolate_boxes(frame_ids, slope, start, stop), line)
        assert torch.equal(interpolate_boxes(frame_ids, boxes, start + 1, stop - 1), dense[1:-1])


@pytest.mark.parametrize("span", [(9, 12), (10, 16), (12, 12)])
def test_interpolation_refuses_what_was_not_sampled(span: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"frames \[10, 15\), got the span \[{span[0]}, {span[1]}\)"):
        interpolate_boxes([10, 14], torch.zeros(2, 4), *span)
