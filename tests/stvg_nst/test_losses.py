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

    return GroundingOutput(random(4), random(), random(2), random(), mask)


def batch(output: GroundingOutput, inside: Tensor) -> Batch:
    boxes = torch.full((*inside.shape, 4), 0.4) * inside[..., None]
    clips = (None,) * len(inside)
    return Batch(clips, None, None, output.frame_mask, (), boxes, inside, torch.zeros(len(inside)))  # type: ignore[arg-type]


def clip(output: GroundingOutput, index: int, length: int) -> GroundingOutput:
    parts = (output.boxes, output.confidence, output.start_end, output.actioness)
    return GroundingOutput(
        *(part[:, index : index + 1, :length] for part in parts), output.frame_mask[[index], :length]
    )


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
