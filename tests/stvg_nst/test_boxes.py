from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from stvg_nst.boxes import cxcywh_to_xyxy, paired_giou, paired_iou, xyxy_to_cxcywh

torch.set_num_threads(1)


def random_boxes(seed: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(*shape, 2, 2, generator=generator, dtype=torch.float64) * 100
    return corners.sort(dim=-2).values.flatten(-2)


def test_formats_by_hand() -> None:
    centred = torch.tensor([[[0.5, 0.5, 0.2, 0.4]]])
    corners = torch.tensor([[[0.4, 0.3, 0.6, 0.7]]])
    torch.testing.assert_close(cxcywh_to_xyxy(centred), corners)
    torch.testing.assert_close(xyxy_to_cxcywh(corners), centred)


@pytest.mark.parametrize("seed", range(5))
def test_formats_invert_each_other(seed: int) -> None:
    boxes = random_boxes(seed, (2, 3, 5))
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_iou_and_giou_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
    torch.testing.assert_close(paired_iou(a, b), torch.tensor([1 / 7, 0.0]))
    torch.testing.assert_close(paired_giou(a, b), torch.tensor([1 / 7 - 2 / 9, -1 / 3]))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_diagonal_of_torchvision(seed: int) -> None:
    a, b = random_boxes(seed, (20,)), random_boxes(seed + 100, (20,))
    torch.testing.assert_close(paired_iou(a, b), box_iou(a, b).diagonal())
    torch.testing.assert_close(paired_giou(a, b), generalized_box_iou(a, b).diagonal())


@pytest.mark.parametrize("seed", range(5))
def test_properties(seed: int) -> None:
    a, b = random_boxes(seed, (4, 6)), random_boxes(seed + 100, (4, 6))
    iou, giou = paired_iou(a, b), paired_giou(a, b)
    assert iou.shape == giou.shape == (4, 6)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert ((giou >= -1) & (giou <= iou + 1e-12)).all()
    torch.testing.assert_close(iou, paired_iou(b, a))
    torch.testing.assert_close(giou, paired_giou(b, a))
    torch.testing.assert_close(paired_iou(3 * a + 7, 3 * b + 7), iou)
    assert (paired_iou(a, a) == 1).all() and (paired_giou(a, a) == 1).all()


@pytest.mark.parametrize("overlap", [paired_iou, paired_giou])
def test_boxes_without_area_give_zero_and_finite_gradients(overlap) -> None:
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    value = overlap(point, point.detach())
    value.backward()
    assert value == 0 and point.grad is not None and point.grad.isfinite().all()
    assert paired_iou(point, torch.tensor([0.0, 0.0, 1.0, 1.0])) == 0


@pytest.mark.parametrize("overlap", [paired_iou, paired_giou])
@pytest.mark.parametrize("size", [1e-3, 1e-9, 1e-12, 1e-20, 1e-24])
def test_what_a_loss_leaves_out_has_no_gradient_however_small(overlap, size: float) -> None:
    """Zero times the gradient of a ratio of areas whose square underflows would be NaN."""
    box = torch.tensor([0.0, size, size, 3 * size], requires_grad=True)
    torch.where(torch.tensor(False), overlap(box, torch.zeros(4)), 0.0).backward()
    assert box.grad is not None and (box.grad == 0).all()


def test_nan_is_not_taken_for_a_box_without_area() -> None:
    assert paired_iou(torch.full((4,), torch.nan), torch.tensor([0.0, 0.0, 1.0, 1.0])).isnan()


@pytest.mark.parametrize("overlap", [paired_iou, paired_giou])
def test_gradient(overlap) -> None:
    a, b = random_boxes(0, (8,)).requires_grad_(), random_boxes(1, (8,)).requires_grad_()
    assert torch.autograd.gradcheck(overlap, (a / 100, b / 100))


def test_half_precision_does_not_overflow() -> None:
    box = torch.tensor([0.0, 0.0, 1920.0, 1080.0], dtype=torch.float16)
    assert paired_iou(box, box) == 1 and paired_giou(box, box) == 1
    assert paired_iou(box, box).dtype == torch.float32
