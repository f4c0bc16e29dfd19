"""The grounding objective on batches; that one clip gives the original's values is in models/test_reference.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from stvg_nst.losses import GroundingLoss
from stvg_nst.types import Batch, GroundingOutput, StepTotals

STAGES = 2


def answer(lengths: tuple[int, ...], seed: int = 0) -> GroundingOutput:
    generator = torch.Generator().manual_seed(seed)
    clips, frames = len(lengths), max(lengths)
    mask = torch.arange(frames) < torch.tensor(lengths)[:, None]

    def random(*shape: int) -> Tensor:
        return torch.rand(STAGES, clips, frames, *shape, generator=generator).requires_grad_()

    boxes, confidence, start_end, actioness = random(4), random(), random(2), random()
    return GroundingOutput(
        boxes=boxes, start_end=start_end, frame_mask=mask, confidence=confidence, actioness=actioness
    )


def batch(output: GroundingOutput, inside: Tensor) -> Batch:
    boxes = torch.full((*inside.shape, 4), 0.4) * inside[..., None]
    clips = (None,) * len(inside)
    return Batch(clips, None, None, output.frame_mask, (), boxes, inside, torch.zeros(len(inside)))  # type: ignore[arg-type]


def clip(output: GroundingOutput, index: int, length: int) -> GroundingOutput:
    parts = {name: value[:, index : index + 1, :length] for name, value in output.answers.items()}
    return GroundingOutput(**parts, frame_mask=output.frame_mask[[index], :length])


@pytest.mark.parametrize("length", [1, 4])
def test_a_clip_without_a_positive_frame_has_finite_losses_and_gradients(length: int) -> None:
    output = answer((length,))
    loss = GroundingLoss()
    terms = loss(output, batch(output, torch.zeros(1, length, dtype=torch.bool)))
    assert all((value == 0).all() == (name != "actioness") for name, value in terms.items())
    total = loss.total(terms)
    total.backward()
    assert total.isfinite() and output.boxes.grad is not None and output.boxes.grad.isfinite().all()
    assert output.actioness.grad is not None and output.actioness.grad.abs().sum() > 0


def test_a_box_that_collapses_outside_the_tube_moves_nothing() -> None:
    output = answer((3,))
    with torch.no_grad():
        output.boxes[:, :, 0] = torch.tensor([1e-24, 3e-17, 2e-24, 1e-17])
    loss = GroundingLoss()
    loss.total(loss(output, batch(output, torch.tensor([[False, True, True]])))).backward()
    assert output.boxes.grad is not None and (output.boxes.grad[:, :, 0] == 0).all()
    assert (output.boxes.grad[:, :, 1:] != 0).any() and output.boxes.grad.isfinite().all()


@pytest.mark.parametrize("box", [(0.0, 0.0, 0.0, 0.0), (-0.2, -0.1, -0.1, -0.3), (0.5, 0.5, -0.1, 0.2), (2, 2, 0, 0)])
@pytest.mark.parametrize("kind", ["cross_entropy", "smooth_l1"])
def test_a_true_box_without_an_area_teaches_no_box(box: tuple[float, ...], kind: Any) -> None:
    output, inside = answer((4,)), torch.tensor([[False, True, True, True]])
    loss, given = GroundingLoss(confidence_kind=kind), batch(output, inside)
    given.boxes[0, 2] = torch.tensor(box)
    terms = loss(output, given)
    loss.total(terms).backward()
    assert output.boxes.grad is not None and output.confidence.grad is not None
    assert output.boxes.grad.isfinite().all() and (output.boxes.grad[:, 0, [1, 3]] != 0).any()
    assert (output.boxes.grad[:, 0, 2] == 0).all() and (output.confidence.grad[:, 0, 2] == 0).all()
    # The mean is over the boxes that teach; the frame is in the tube all the same.
    two = loss(output, batch(output, torch.tensor([[False, True, False, True]])))
    whole = loss(output, batch(output, inside))
    for name in terms:
        other = whole if name in ("start_end", "actioness") else two
        torch.testing.assert_close(terms[name], other[name])


def test_one_frame_that_is_the_tube() -> None:
    output = answer((1,))
    loss = GroundingLoss()
    total = loss.total(loss(output, batch(output, torch.ones(1, 1, dtype=torch.bool))))
    total.backward()
    assert total.isfinite() and output.start_end.grad is not None and output.start_end.grad.isfinite().all()


def test_a_batch_of_unequal_clips_is_the_mean_of_each_alone() -> None:
    output, loss = answer((6, 3)), GroundingLoss()
    inside = torch.tensor([[False, True, True, False, False, False], [True, True, False, False, False, False]])
    together = loss(output, batch(output, inside))
    for index, length in enumerate((6, 3)):
        alone = clip(output, index, length)
        terms = loss(alone, batch(alone, inside[[index], :length]))
        # Both clips have two true boxes, so that the mean over all boxes is the mean over the clips.
        for name, values in terms.items():
            torch.testing.assert_close(
                together[name][:, index], values[:, 0], msg=lambda text, name=name: f"{name}: {text}"
            )


def test_processes_talk_in_training_and_not_in_evaluation_where_one_may_have_more_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def double(tensor: Tensor) -> None:
        tensor *= 2  # the other process has as many boxes

    said: list[Tensor] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: (said.append(tensor), double(tensor)))
    output, loss = answer((4,)), GroundingLoss()
    true = batch(output, torch.tensor([[False, True, True, False]]))
    in_training = loss(output, true)
    assert len(said) == 1
    in_evaluation = loss.eval()(output, true)
    assert len(said) == 1
    torch.testing.assert_close(in_training, in_evaluation)


def test_evaluation_gives_each_clip_the_terms_that_it_has_alone() -> None:
    output, loss = answer((6, 3)), GroundingLoss(confidence_kind="smooth_l1").eval()
    inside = torch.tensor([[False, True, True, True, True, False], [True, False, False, False, False, False]])
    together = loss(output, batch(output, inside))
    for index, length in enumerate((6, 3)):
        alone = clip(output, index, length)
        for name, values in loss(alone, batch(alone, inside[[index], :length])).items():
            torch.testing.assert_close(together[name][:, index], values[:, 0])


def test_box_terms_are_means_over_the_true_boxes_of_the_step_a_batch_is_part_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "all_reduce", lambda totals: pytest.fail("what the step holds is known"))
    outputs, loss = (answer((4, 4)), answer((4, 4), seed=1)), GroundingLoss()
    insides = (torch.ones(2, 4, dtype=torch.bool), torch.tensor([[False, True, False, False]] * 2))
    parts = [batch(output, inside) for output, inside in zip(outputs, insides, strict=True)]
    shares = [
        loss(output, replace(part, step=StepTotals(clips=4, boxes=10)))
        for output, part in zip(outputs, parts, strict=True)
    ]
    errors = [
        (output.boxes - part.boxes).abs().sum(-1)[:, part.inside] for output, part in zip(outputs, parts, strict=True)
    ]
    mean = (shares[0]["boxes"].mean(1) + shares[1]["boxes"].mean(1)) / 2
    torch.testing.assert_close(mean, torch.cat(errors, dim=1).mean(1))


def test_box_terms_of_uneven_processes_weighed_by_their_clips_are_the_mean_over_all_boxes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outputs, loss = (answer((4, 4, 4)), answer((4,), seed=1)), GroundingLoss()
    insides = (torch.ones(3, 4, dtype=torch.bool), torch.tensor([[False, True, False, False]]))
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", lambda totals: totals.copy_(torch.tensor([4.0, 13.0])))
    shares = [loss(output, batch(output, inside)) for output, inside in zip(outputs, insides, strict=True)]
    weighed = (3 * shares[0]["boxes"].mean(1) + shares[1]["boxes"].mean(1)) / 4
    errors = [
        (output.boxes - batch(output, inside).boxes).abs().sum(-1)[:, inside]
        for output, inside in zip(outputs, insides, strict=True)
    ]
    torch.testing.assert_close(weighed, torch.cat(errors, dim=1).mean(1))


def test_a_term_without_a_weight_is_not_computed_and_needs_nothing() -> None:
    full = answer((5,))
    output = GroundingOutput(boxes=full.boxes, start_end=full.start_end, frame_mask=full.frame_mask)
    given = batch(output, torch.tensor([[False, True, True, False, False]]))
    loss = GroundingLoss(confidence=0.0, actioness=0.0)
    terms = loss(output, given)
    assert list(terms) == list(loss.weights) == ["boxes", "giou", "start_end"]
    whole = GroundingLoss()(full, batch(full, given.inside))
    assert all(torch.equal(terms[name], whole[name]) for name in terms)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("confidence", r"weighs confidence by 3, but the grounder says no confidence of its boxes; set .*confidence 0"),
        ("actioness", "weighs actioness by 3, but the grounder says no actioness"),
        ("guided_attention", "weighs guided_attention by 3, but the grounder says no attention over time"),
    ],
)
def test_a_weighed_term_needs_what_it_compares(name: str, message: str) -> None:
    full = answer((5,))
    output = GroundingOutput(boxes=full.boxes, start_end=full.start_end, frame_mask=full.frame_mask)
    loss = GroundingLoss(**{"confidence": 0.0, "actioness": 0.0, name: 3.0})
    with pytest.raises(ValueError, match=message):
        loss(output, batch(output, torch.ones(1, 5, dtype=torch.bool)))


@pytest.mark.parametrize("weights", [{"giou": -1.0}, dict.fromkeys(GroundingLoss().weights, 0.0)])
def test_weights_that_are_no_objective_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 0, and one of them above, got"):
        GroundingLoss(**weights)


def attending(output: GroundingOutput, attention: Tensor) -> GroundingOutput:
    return GroundingOutput(**output.answers, frame_mask=output.frame_mask, time_attention=attention)


def test_guided_attention_is_that_of_queries_outside_the_tube() -> None:
    only = GroundingLoss(boxes=0, giou=0, confidence=0, start_end=0, actioness=0, guided_attention=1)
    attention = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.0, 0.8]]).expand(STAGES, 1, 3, 3)
    output = attending(answer((3,)), attention)
    found = only(output, batch(output, torch.tensor([[False, True, False]])))["guided_attention"]
    by_hand = -(torch.tensor([0.5, 0.5, 0.8, 0.2]).log().sum() / 2)
    torch.testing.assert_close(found, by_hand.expand(STAGES, 1), atol=1e-5, rtol=0)
    assert (only(output, batch(output, torch.ones(1, 3, dtype=torch.bool)))["guided_attention"] == 0).all()


def test_guided_attention_above_one_is_finite_and_padding_is_nothing() -> None:
    only = GroundingLoss(boxes=0, giou=0, confidence=0, start_end=0, actioness=0, guided_attention=1)
    attention = torch.full((STAGES, 2, 4, 4), 1 / 0.9)  # what a dropout of 0.1 makes of a query that sees one frame
    attention[:, 1] = torch.rand(STAGES, 4, 4, generator=torch.Generator().manual_seed(0))
    output = attending(answer((4, 2)), attention.requires_grad_())
    inside = torch.tensor([[True, False, False, False], [True, False, False, False]])
    terms = only(output, batch(output, inside))["guided_attention"]
    terms.sum().backward()
    assert terms.isfinite().all() and attention.grad is not None and attention.grad.isfinite().all()
    assert (attention.grad[:, 1, 2:] == 0).all() and (attention.grad[:, 1, :, 2:] == 0).all()
    alone = attending(clip(output, 1, 2), attention[:, 1:, :2, :2])
    torch.testing.assert_close(only(alone, batch(alone, inside[1:, :2]))["guided_attention"][:, 0], terms[:, 1])


def test_of_a_clip_without_a_tube_all_frames_may_be_told_to_be_alike() -> None:
    output = answer((4,))
    empty = batch(output, torch.zeros(1, 4, dtype=torch.bool))
    found = GroundingLoss(without_tube="uniform")(output, empty)["start_end"]
    probability = output.start_end.softmax(dim=2)
    expected = (probability * ((probability + 1e-6) / 0.25).log()).sum(-1).mean(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert (GroundingLoss()(output, empty)["start_end"] == 0).all()
