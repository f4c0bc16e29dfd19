"""One question to a frozen and a tuned model, and the films that show what they answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datamodules.footage import Footage, open_footage
from stvg_nst.drawing import FROZEN, PREDICTED, TRUE
from stvg_nst.metrics.functional import tube_iou
from stvg_nst.prediction import Answer, VideoGrounder
from stvg_nst.prediction.answer import tube_trace
from stvg_nst.prediction.pictures import Scene, draw_film
from stvg_nst.types import Tube

Step = Callable[[float, str], None]
"""Is told the share that is done, and what comes next."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What both have answered.

    Args:
        frozen, tuned: the answers.
        truth: the true tube, ``None`` where it is not known.
        hard: whether the tuned model has one hard gate, which is open or shut.
        frozen_film, tuned_film: with the boxes, and an axis of time below.
    """

    frozen: Answer
    tuned: Answer
    truth: Tube | None
    hard: bool
    frozen_film: Path
    tuned_film: Path

    def points(self, answer: Answer) -> float | None:
        """vIoU with the truth, in points."""
        return None if self.truth is None else 100 * tube_iou(answer.tube, self.truth)[1]

    @property
    def agreement(self) -> float:
        """vIoU of the two answers with each other, in [0, 1]; 1 where they are the same."""
        return tube_iou(self.tuned.tube, self.frozen.tube)[1]


def compare(
    grounder: VideoGrounder, film: Path, sentence: str, truth: Tube | None, folder: Path, step: Step
) -> Comparison:
    """Asks both models, and writes the films into a folder.

    Args:
        grounder: that answers by an adapter.
        film: what they see.
        truth: the true tube, drawn dashed where it is known.

    Raises:
        ValueError: the sentence is blank or too long.
        VideoDecodeError: the film cannot be read.
    """
    footage = open_footage(film)
    step(0.2, "asking the models")
    tuned, tuner = grounder.ground(footage, sentence), grounder.network.tuner
    frozen = tuned.frozen
    assert frozen is not None and tuner is not None, "a model of this page has an adapter"
    step(0.6, "drawing what the frozen model says")
    frozen_film = _draw(footage, frozen, "frozen", truth, folder)
    step(0.8, "drawing what the tuned model says")
    tuned_film = _draw(footage, tuned, "tuned", truth, folder)
    return Comparison(frozen, tuned, truth, tuner.has_one_hard_gate, frozen_film, tuned_film)


def _draw(footage: Footage, answer: Answer, name: str, truth: Tube | None, folder: Path) -> Path:
    traces = [] if truth is None else [tube_trace("truth", truth, TRUE, dash=6)]
    traces.append(tube_trace(name, answer.tube, FROZEN if name == "frozen" else PREDICTED))
    start, stop = answer.seconds
    scene = Scene(footage, answer.segment, answer.sentence, f"{name}: {start:.1f} s to {stop:.1f} s", tuple(traces))
    path = folder / f"{name}.mp4"
    draw_film(scene, path)
    return path
