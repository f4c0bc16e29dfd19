"""Lightning callbacks: they watch a run, draw it, and write down what came of it."""

from callbacks.adapter_checkpoint import AdapterCheckpoint
from callbacks.dashboard import Dashboard
from callbacks.hyperparameters import HyperparameterSummary
from callbacks.moving_average import MovingAverage
from callbacks.nullspace_monitor import NullSpaceMonitor
from callbacks.predictions_writer import PredictionsWriter
from callbacks.results_writer import ResultsWriter
from callbacks.run_log import RunLog
from callbacks.run_progress import RunProgress
from callbacks.tube_visualizer import TubeVisualizer

__all__ = [
    "AdapterCheckpoint",
    "Dashboard",
    "HyperparameterSummary",
    "MovingAverage",
    "NullSpaceMonitor",
    "PredictionsWriter",
    "ResultsWriter",
    "RunLog",
    "RunProgress",
    "TubeVisualizer",
]
