"""Boxes: the two formats of the suite, and the overlap of boxes taken in pairs.

torchvision compares every box with every other, or returns a loss whose epsilon (1e-7) is a visible part of a small
box's area in units of the frame. Both losses and metrics need the plain value of the i-th box with the i-th box.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import box_area, box_convert


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """(..., 4) centre and size, as inside the network, to (..., 4) corners, in the same unit."""
    return box_convert(boxes, "cxcywh", "xyxy")


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners to (..., 4) centre and size, in the same unit."""
    return box_convert(boxes, "xyxy", "cxcywh")


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of ``a[i]`` with ``b[i]``.

    Args:
        a, b: (..., 4), xyxy with x1 <= x2 and y1 <= y2, in one unit; they broadcast.

    Returns:
        (...) in [0, 1], float32 at least. Two boxes without area have IoU 0, as have two that
        together cover less than 1e-19 square units in float32; both gradients stay finite.
    """
    return _ratio(*_intersection_and_union(a, b))


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of ``a[i]`` with ``b[i]``: IoU less the share of the enclosing box that neither covers.

    Args:
        a, b: (..., 4), xyxy with x1 <= x2 and y1 <= y2, in one unit; they broadcast.

    Returns:
        (...) in [-1, 1], float32 at least, and 0 where even the enclosing box has no area, in the
        same sense.

    Source: Rezatofighi et al., CVPR 2019.
    """
    intersection, union = _intersection_and_union(a, b)
    corners = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    enclosing = box_area(corners)
    return _ratio(intersection, union) - _ratio(enclosing - union, enclosing)


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    width_height = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    # In half precision an area in square pixels overflows (fp16) or keeps three digits (bf16); box_area upcasts alike.
    width_height = width_height.to(torch.promote_types(width_height.dtype, torch.float32))
    intersection = width_height.prod(dim=-1)
    return intersection, box_area(a) + box_area(b) - intersection


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    # Autograd divides by `whole` twice, so that one whose square underflows counts as none, or its gradient would be
    # infinite, and NaN where the loss leaves the box out. The inner `where` keeps 0/0 out of the backward pass; a
    # comparison that NaN fails lets a NaN box stay NaN.
    empty = whole <= torch.finfo(whole.dtype).tiny ** 0.5
    return torch.where(empty, 0.0, part / torch.where(empty, 1.0, whole))
