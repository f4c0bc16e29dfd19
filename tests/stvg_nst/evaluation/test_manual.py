"""What docs/evaluation.md shows is what the code reads and computes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from stvg_nst.evaluation import PROTOCOLS, evaluate, parse_ground_truth, parse_predictions
from stvg_nst.evaluation.protocols import Protocol, frame_keys, overlap_tubes
from stvg_nst.evaluation.tubes import stack_tubes

MANUAL = (Path(__file__).resolve().parents[3] / "docs" / "evaluation.md").read_text()


def test_example_files_are_valid_and_fit_each_other() -> None:
    first, second = re.findall(r"```json\n(.*?)```", MANUAL, re.DOTALL)
    evaluation = evaluate(parse_predictions(json.loads(first)), parse_ground_truth(json.loads(second)))
    assert list(evaluation.protocols) == list(PROTOCOLS)
    metrics = evaluation.protocols["half_open"].metrics
    # HQ finds two of three frames perfectly; LQ two of three, one of them without a box.
    assert (metrics["HQ/m_vIoU"], metrics["LQ/m_vIoU"], metrics["LQ/m_tIoU"]) == pytest.approx(
        (200 / 3, 100 / 3, 200 / 3)
    )
    assert evaluation.protocols["hcstvg"].metrics["LQ/m_tIoU"] == pytest.approx(100 / 3)


def test_perfect_tubes_score_as_the_table_says() -> None:
    table = re.search(r"\| protocol \| 1 \|.*?\n\n", MANUAL, re.DOTALL)
    assert table
    header, _, *rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in table[0].split("\n") if line]
    assert [row[0] for row in rows] == list(PROTOCOLS) == list(get_args(Protocol))
    frames = np.arange(200)
    for column, length in enumerate(map(int, header[1:]), start=1):
        tube = stack_tubes([(50, 50 + length)], [np.tile([0.0, 0.0, 10.0, 10.0], (length, 1))])
        overlap = overlap_tubes(tube, tube, np.array([0]), frame_keys(np.zeros_like(frames), frames))
        for protocol, *cells in rows:
            scores = [float(part[0]) for part in PROTOCOLS[protocol](overlap)]  # type: ignore[index]
            assert scores == pytest.approx([float(cells[column - 1])] * 2), (protocol, length)
