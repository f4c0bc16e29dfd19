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
