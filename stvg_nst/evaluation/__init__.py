"""The benchmark's numbers for tubes in files, whatever made them. Never imports torch: any model's user may run it."""

from __future__ import annotations

from stvg_nst.evaluation.evaluator import Evaluation, ProtocolResult, evaluate
from stvg_nst.evaluation.files import (
    TubeFileError,
    load_ground_truth,
    load_predictions,
    parse_ground_truth,
    parse_predictions,
    render_ground_truth,
    render_predictions,
)
from stvg_nst.evaluation.protocols import PROTOCOLS
from stvg_nst.evaluation.scoring import Coverage, CoverageError
from stvg_nst.evaluation.tubes import GroundTruth, Predictions, Tubes

__all__ = [
    "PROTOCOLS",
    "Coverage",
    "CoverageError",
    "Evaluation",
    "GroundTruth",
    "Predictions",
    "ProtocolResult",
    "TubeFileError",
    "Tubes",
    "evaluate",
    "load_ground_truth",
    "load_predictions",
    "parse_ground_truth",
    "parse_predictions",
    "render_ground_truth",
    "render_predictions",
]
