from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stvg_nst.evaluation.protocols import PROTOCOLS, frame_keys, overlap_tubes
from stvg_nst.evaluation.tubes import Tubes, stack_tubes
from stvg_nst.metrics import tube_iou
from stvg_nst.types import Tube

BOX = (0.0, 0.0, 10.0, 10.0)
THIRD = (5.0, 0.0, 15.0, 10.0)  # IoU 1/3 with BOX
NONE = (np.nan,) * 4


def still(start: int, stop: int, box: tuple[float, ...] = BOX) -> Tubes:
    return stack_tubes([(start, stop)], [np.tile(box, (stop - start, 1))])


def score(protocol: str, pred: Tubes, true: Tubes, sampled: list[int] | None = None) -> tuple[float, float]:
    frames = np.arange(0, 100, 4) if sampled is None else np.array(sampled, dtype=np.int64)
    overlap = overlap_tubes(pred, true, np.array([0]), frame_keys(np.zeros_like(frames), frames))
    t_iou, v_iou = PROTOCOLS[protocol](overlap)
    return float(t_iou[0]), float(v_iou[0])


@pytest.mark.parametrize(
    ("protocol", "length", "expected"),
    [
        ("half_open", 10, 1.0),
        ("half_open", 1, 1.0),
        ("cgstvg", 10, 0.9),
        ("cgstvg", 50, 0.98),
        ("cgstvg", 100, 0.99),
        ("cgstvg", 1, 0.0),
        ("hcstvg", 10, 1.0),
        ("hcstvg", 1, 1.0),
        ("tubedetr", 10, 1.0),
    ],
)
def test_perfect_tube(protocol: str, length: int, expected: float) -> None:
    tube = still(8, 8 + length)
    assert score(protocol, tube, tube) == pytest.approx((expected, expected), abs=1e-15)


@pytest.mark.parametrize(
    ("protocol", "pred", "true", "expected"),
    [
        ("half_open", still(0, 10), still(5, 15, THIRD), (5 / 15, 5 / 15 / 3)),
        ("half_open", still(0, 10), still(10, 20), (0, 0)),
        ("half_open", still(3, 4), still(0, 10), (0.1, 0.1)),
        # The true span counts as [5, 14): 5 shared frames of 14.
        ("cgstvg", still(0, 10), still(5, 15, THIRD), (5 / 14, 5 / 14 / 3)),
        # As [0, 4): all of it is found, with two frames too many.
        ("cgstvg", still(0, 6), still(0, 5), (4 / 6, 4 / 6)),
        # The last true frame alone is found, and does not count.
        ("cgstvg", still(9, 12), still(0, 10), (0, 0)),
        ("hcstvg", still(0, 10), still(5, 15, THIRD), (5 / 15, 5 / 15 / 3)),
        ("hcstvg", still(0, 10), still(10, 20), (0, 0)),
        # Sampled are 0, 4, 8, 12: one of them in both, all in either.
        ("tubedetr", still(0, 10), still(5, 15, THIRD), (5 / 15, 1 / 4 / 3)),
        ("tubedetr", still(5, 8), still(5, 8), (1, 0)),
        ("tubedetr", still(0, 4), still(8, 12), (0, 0)),
    ],
)
def test_by_hand(protocol: str, pred: Tubes, true: Tubes, expected: tuple[float, float]) -> None:
    assert score(protocol, pred, true) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("half_open", (1.0, 0.6)),
        ("cgstvg", (0.9, 0.6)),
        ("hcstvg", (0.6, 0.6)),  # a frame without a box is not shared
        ("tubedetr", (1.0, 2 / 3)),  # of 0, 4, 8 the first two have a box
    ],
)
def test_frames_without_a_box(protocol: str, expected: tuple[float, float]) -> None:
    pred = stack_tubes([(0, 10)], [np.array([BOX] * 6 + [NONE] * 4)])
    assert score(protocol, pred, still(0, 10)) == pytest.approx(expected, abs=1e-15)


def test_a_frame_without_a_box_beyond_the_truth_lies_in_the_predicted_span() -> None:
    pred = stack_tubes([(0, 10)], [np.array([NONE] * 4 + [BOX] * 6)])
    assert score("hcstvg", pred, still(4, 10)) == pytest.approx((0.6, 0.6), abs=1e-15)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_boxes_without_area_do_not_overlap(protocol: str) -> None:
    point = still(0, 8, (3.0, 3.0, 3.0, 3.0))
    t_iou, v_iou = score(protocol, point, point)
    assert t_iou >= 7 / 8 and v_iou == 0


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("half_open", (6 / 11, 6 / 11)),  # frames 2 and 9 of [0, 10) are taken out, [3, 13) is predicted
        ("cgstvg", (6 / 11, 6 / 11)),  # frame 9 does not count there as it is
        ("hcstvg", (6 / 11, 6 / 11)),
        ("tubedetr", (6 / 11, 2 / 4)),  # sampled are 0, 4, 8 and 12
    ],
)
def test_frames_that_are_taken_out(protocol: str, expected: tuple[float, float]) -> None:
    boxes = np.tile(BOX, (10, 1))
    boxes[[2, 9]] = np.nan
    true = stack_tubes([(0, 10)], [boxes])
    assert score(protocol, still(3, 13), true) == pytest.approx(expected, abs=1e-15)
    assert score(protocol, still(0, 10), true) == pytest.approx((1, 1), abs=1e-15)
    assert score(protocol, still(9, 12), true) == (0, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_that_counts_is_no_division_by_zero(protocol: str) -> None:
    true = stack_tubes([(4, 6)], [np.array([NONE, BOX])])
    assert score(protocol, still(4, 5), true) == (0, 0)


def random_tubes(generator: np.random.Generator, count: int) -> Tubes:
    starts, lengths = generator.integers(0, 30, count), generator.integers(1, 30, count)
    corners = generator.integers(0, 50, (lengths.sum(), 2, 2)).astype(float)
    return Tubes(starts, starts + lengths, np.sort(corners, axis=1).reshape(-1, 4))


def test_many_tubes_score_as_each_alone() -> None:
    generator = np.random.default_rng(0)
    pred, true = random_tubes(generator, 60), random_tubes(generator, 40)
    rows = generator.integers(0, 40, 60)
    sampled = np.sort(generator.random((40, 60)).argsort(axis=1)[:, :12], axis=1)
    overlap = overlap_tubes(pred, true, rows, frame_keys(np.arange(40)[:, None], sampled).ravel())
    for protocol, function in PROTOCOLS.items():
        t_iou, v_iou = function(overlap)
        assert (v_iou > 0).sum() > 10 and (v_iou >= 0).all() and (t_iou <= 1).all()
        for index, row in enumerate(rows):
            alone = score(protocol, one(pred, index), one(true, int(row)), sampled[row].tolist())
            assert (t_iou[index], v_iou[index]) == pytest.approx(alone, abs=1e-14)


def test_half_open_is_the_metric_of_training() -> None:
    generator = np.random.default_rng(1)
    pred, true = random_tubes(generator, 200), random_tubes(generator, 200)
    true.boxes[generator.random(len(true.boxes)) < 0.1] = np.nan
    true.boxes[np.cumsum(true.stop - true.start) - 1] = BOX  # at least one of each counts
    true.boxes[::7] = true.boxes[::7, [2, 3, 0, 1]]  # some with swapped corners
    t_iou, v_iou = PROTOCOLS["half_open"](overlap_tubes(pred, true, np.arange(200)))
    for index in range(200):
        expected = tube_iou(torch_tube(pred, index), torch_tube(true, index))
        assert (t_iou[index], v_iou[index]) == pytest.approx(expected, abs=1e-13)


def one(tubes: Tubes, index: int) -> Tubes:
    frames = np.arange(tubes.start[index], tubes.stop[index])
    boxes = tubes.boxes_at(np.full(len(frames), index), frames)
    return stack_tubes([(tubes.start[index], tubes.stop[index])], [boxes])


def torch_tube(tubes: Tubes, index: int) -> Tube:
    alone = one(tubes, index)
    return Tube(int(alone.start[0]), int(alone.stop[0]), torch.from_numpy(alone.boxes))


def test_cgstvg_agrees_with_the_published_evaluation(shared: Path) -> None:
    folder = shared / "cgstvg" / "golden"
    inputs = json.loads((folder / "12_eval_hcstvg_inputs.json").read_text())
    expected = json.loads((folder / "12_eval_hcstvg_expected.json").read_text())
    spans, boxes, true_spans, true_boxes, keys = [], [], [], [], []
    for item in inputs["gt"]:
        key = str(item["item_id"])
        start, stop = inputs["pred_sted"][key]
        answered = inputs["pred_boxes_xyxy"][key]
        first, last = item["gt_temp_bound"]
        keys.append(key)
        spans.append((start, stop))
        boxes.append(np.array([answered.get(str(frame), NONE) for frame in range(start, stop)]))
        true_spans.append((first, last + 1))
        true_boxes.append(np.array([item["bboxs"][str(frame)] for frame in range(first, last + 1)]))
    pred, true = stack_tubes(spans, boxes), stack_tubes(true_spans, true_boxes)
    assert np.isnan(pred.boxes).any(), "some frames have no box, and count as none"
    t_iou, v_iou = PROTOCOLS["cgstvg"](overlap_tubes(pred, true, np.arange(len(keys))))
    for index, key in enumerate(keys):
        sample = expected["per_sample"][key]
        assert t_iou[index] == sample["tiou"]
        assert v_iou[index] == pytest.approx(sample["viou"], abs=1e-12)
        for threshold in (0.3, 0.5):
            assert (v_iou[index] > threshold) == sample[f"viou@{threshold}"]
    average = expected["average"]
    assert (t_iou.mean(), v_iou.mean()) == pytest.approx((average["tiou"], average["viou"]), abs=1e-12)


@pytest.mark.parametrize("dataset", ["vidstg", "hcstvg"])
def test_tubedetr_agrees_with_the_published_evaluation(shared: Path, dataset: str) -> None:
    golden = json.loads((shared / "tubedetr" / "golden" / f"10_evaluate_{dataset}.json").read_text())
    items = golden["items"]
    spans = [tuple(int(edge) for edge in item["predicted_span"]) for item in items]
    boxes = [
        np.array([item["predicted_boxes_xyxy"].get(str(frame), NONE) for frame in range(*span)])
        for item, span in zip(items, spans, strict=True)
    ]
    true_boxes = [np.array(item["true_boxes_xywh"], dtype=float) for item in items]
    for xywh in true_boxes:
        xywh[:, 2:] += xywh[:, :2]
    sampled = [np.array(item["sampled_frames"]) for item in items]
    keys = np.concatenate([frame_keys(np.full(len(ids), row), ids) for row, ids in enumerate(sampled)])
    true = stack_tubes([tuple(item["tube"]) for item in items], true_boxes)
    t_iou, v_iou = PROTOCOLS["tubedetr"](overlap_tubes(stack_tubes(spans, boxes), true, np.arange(len(items)), keys))
    assert (v_iou > 0).sum() > 9
    expected = [item["expected"] for item in items]
    assert t_iou.tolist() == pytest.approx([each["tiou"] for each in expected], abs=1e-12)
    assert v_iou.tolist() == pytest.approx([each["viou"] for each in expected], abs=1e-12)
    for threshold in (0.3, 0.5):
        assert (v_iou > threshold).tolist() == [bool(each[f"viou@{threshold}"]) for each in expected]
    kinds = np.array([f"{item['qtype']}_" if "qtype" in item else "" for item in items])
    for kind in dict.fromkeys(kinds.tolist()):
        of_kind = kinds == kind
        means = {"tiou": t_iou[of_kind].mean(), "viou": v_iou[of_kind].mean()}
        means |= {f"viou@{threshold}": (v_iou[of_kind] > threshold).mean() for threshold in (0.3, 0.5)}
        for name, mean in means.items():
            assert mean == pytest.approx(golden["averages"][f"{kind}{name}"], abs=1e-12)
