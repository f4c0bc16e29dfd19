from __future__ import annotations

import pytest
import torch

from stvg_nst.metrics import tube_iou
from stvg_nst.types import Tube

torch.set_num_threads(1)


def still(start: int, stop: int, box: tuple[float, float, float, float] = (0, 0, 10, 10)) -> Tube:
    return Tube(start, stop, torch.tensor(box).expand(stop - start, 4))


def random_tube(generator: torch.Generator) -> Tube:
    start, length = torch.randint(0, 8, (2,), generator=generator).tolist()
    corners = torch.randint(0, 50, (length + 1, 2, 2), generator=generator).float()
    return Tube(start, start + length + 1, corners.sort(dim=1).values.flatten(1))


@pytest.mark.parametrize(
    ("pred", "target", "t_iou", "v_iou"),
    [
        (still(0, 10), still(0, 10), 1.0, 1.0),
        (still(0, 10), still(10, 20), 0.0, 0.0),  # half-open: they touch and share no frame
        (still(0, 9), still(0, 10), 0.9, 0.9),
        (still(0, 10), still(5, 15), 5 / 15, 5 / 15),
        (still(0, 10), still(0, 10, (5, 0, 15, 10)), 1.0, 1 / 3),
        (still(0, 10), still(5, 15, (5, 0, 15, 10)), 5 / 15, 5 / 15 / 3),
        (still(0, 10), still(0, 10, (20, 20, 30, 30)), 1.0, 0.0),
        (still(3, 4), still(3, 4), 1.0, 1.0),
    ],
)
def test_by_hand(pred: Tube, target: Tube, t_iou: float, v_iou: float) -> None:
    assert tube_iou(pred, target) == pytest.approx((t_iou, v_iou))


def test_frames_are_aligned_by_index() -> None:
    moving = torch.arange(10.0).unsqueeze(1) + torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert tube_iou(Tube(2, 8, moving[2:8]), Tube(0, 10, moving)) == pytest.approx((0.6, 0.6))


def test_properties() -> None:
    generator = torch.Generator().manual_seed(0)
    overlaps = 0
    for _ in range(200):
        a, b = random_tube(generator), random_tube(generator)
        t_iou, v_iou = tube_iou(a, b)
        overlaps += v_iou > 0
        assert 0 <= v_iou <= t_iou <= 1
        assert tube_iou(b, a) == pytest.approx((t_iou, v_iou))
        moved = [Tube(tube.start + 5, tube.stop + 5, tube.boxes + 64) for tube in (a, b)]
        assert tube_iou(*moved) == pytest.approx((t_iou, v_iou))
        assert tube_iou(a, Tube(a.stop, a.stop + len(a), a.boxes)) == (0, 0)
        grown = Tube(a.start, a.stop, a.boxes + torch.tensor([0, 0, 1, 1]))  # a box without area overlaps nothing
        assert tube_iou(grown, grown) == (1, 1)
    assert overlaps > 50


def published_iou(a: list[float], b: list[float]) -> float:
    """As the published evaluators count two boxes, whatever these are: sides as they stand, overlaps from 0 on."""
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    return overlap / (sum(areas) - overlap) if overlap > 0 else 0.0


def test_bad_true_boxes_score_as_the_published_evaluators_have_it() -> None:
    generator = torch.Generator().manual_seed(1)
    pred = Tube(0, 400, torch.randint(0, 60, (400, 2, 2), generator=generator).float().sort(1).values.flatten(1))
    bad = torch.randint(-20, 80, (400, 4), generator=generator).float()
    bad[:3] = torch.tensor([[-40.0, 0, -67, -47], [10, 10, 10, 10], [-5, -5, 90, 90]])
    pred.boxes[0] = torch.tensor([10.0, 10, 10, 10])  # no area against a negative one, and against none
    pred.boxes[1] = torch.tensor([10.0, 10, 10, 10])
    expected = [published_iou(a, b) for a, b in zip(pred.boxes.tolist(), bad.tolist(), strict=True)]
    assert sum(value > 0 for value in expected) > 20
    assert tube_iou(pred, Tube(0, 400, bad)) == pytest.approx((1.0, sum(expected) / 400), abs=1e-12)


def test_frames_that_are_taken_out_are_in_neither_tube() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(10, 1)
    boxes[[2, 9]] = torch.nan
    target = Tube(0, 10, boxes)
    assert tube_iou(still(0, 10), target) == (1.0, 1.0)
    assert tube_iou(still(0, 9), target) == (1.0, 1.0)
    assert tube_iou(still(0, 4), target) == pytest.approx((3 / 8, 3 / 8))
    assert tube_iou(still(4, 14), target) == pytest.approx((5 / 12, 5 / 12))
    assert tube_iou(still(2, 3), target) == (0.0, 0.0)
    assert tube_iou(still(9, 20), target) == (0.0, 0.0)
