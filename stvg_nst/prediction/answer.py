"""What a grounder answers to a sentence about a film."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.footage import Footage
from stvg_nst.drawing import FROZEN, PREDICTED, Colour, Trace
from stvg_nst.prediction.pictures import Scene, draw_film, draw_strip
from stvg_nst.types import Tube


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A tube, and how it came about.

    Args:
        sentence: that it answers.
        tube: in native frames of the film, boxes in the pixels that a player shows.
        confidence: in [0, 1]; see :func:`stvg_nst.prediction.network.tube_confidences`.
        quality: how degraded the router finds the film there, from 0 (clean) to 1; ``None`` without a router.
        model: that answers, in words.
        method: of its adapter, as files of predictions name it.
        segment: of the film that was looked at, half-open, native frames.
        footage: the film.
        degraded_above: the quality above which the model takes a film for degraded.
        frozen: what the frozen model says of the same; ``None`` where it was not asked, or is the one that answers.
    """

    sentence: str
    tube: Tube
    confidence: float
    quality: float | None
    model: str
    method: str
    segment: tuple[int, int]
    footage: Footage = field(repr=False)
    degraded_above: float = 0.5
    frozen: Answer | None = None

    @property
    def video(self) -> str:
        """The name of the film."""
        return self.footage.name

    @property
    def seconds(self) -> tuple[float, float]:
        """When the tube begins and ends, after the film's first frame."""
        return self.footage.time_of(self.tube.start), self.footage.time_of(self.tube.stop)

    @property
    def boxes(self) -> Tensor:
        """(N, 4) float32, xyxy, native pixels, one for each native frame of the tube."""
        return self.tube.boxes

    def draw(self, path: Path | str, *, compare: bool = False) -> None:
        """Writes a film of the segment: the box on each frame, the sentence and the tube on an axis of time below.

        It is H.264 in mp4, which browsers play, at the times of the source and with its sound.

        Args:
            path: named .mp4; a file that stands there is replaced.
            compare: draw what the frozen model says, too, dashed.

        Raises:
            ValueError: the file is not named .mp4, or is the film itself, or the frozen model was not asked.
            VideoDecodeError: the film has gone since.
            OSError: the file cannot be written.
        """
        draw_film(self._scene(compare), Path(path))

    def strip(self, path: Path | str, *, compare: bool = False) -> None:
        """Writes a picture (.png) of frames side by side; arguments and errors as of :meth:`draw`."""
        draw_strip(self._scene(compare), Path(path))

    def entry(self, item_id: str) -> dict[str, Any]:
        """As an entry of ``predictions.json``, for ``python -m stvg_nst evaluate``."""
        return {"item_id": item_id, "start": self.tube.start, "stop": self.tube.stop, "boxes": self.boxes.tolist()}

    def to_json(self) -> str:
        """One line of JSON with all that is known but the pixels."""
        return json.dumps(self.as_dict(), allow_nan=False)

    def as_dict(self) -> dict[str, Any]:
        """What :meth:`to_json` writes."""
        said = {
            "video": self.video,
            "sentence": self.sentence,
            "start": self.tube.start,
            "stop": self.tube.stop,
            "seconds": [*self.seconds],
            "boxes": self.boxes.double().tolist(),
            "confidence": self.confidence,
            "quality": self.quality,
            "fps": self.footage.fps,
            "size": [*self.footage.size],
            "model": self.model,
            "method": self.method,
        }
        return said if self.frozen is None else {**said, "frozen": self.frozen.as_dict()}

    def summary(self) -> str:
        """When, how sure and how clean, in a line."""
        start, stop = self.seconds
        words = f"{start:.2f} s to {stop:.2f} s (frames {self.tube.start} to {self.tube.stop - 1})"
        words += f", confidence {self.confidence:.2f}"
        if self.quality is not None:
            words += f", {'degraded' if self.quality > self.degraded_above else 'clean'} ({self.quality:.2f})"
        return words

    def _scene(self, compare: bool) -> Scene:
        if compare and self.frozen is None:
            raise ValueError(
                "there is nothing to compare with: the frozen model was not asked, or is the one that answers; ground "
                "with compare=True and an adapter"
            )
        traces = [tube_trace("tube", self.tube, PREDICTED)]
        if compare and self.frozen is not None:
            traces = [tube_trace("frozen", self.frozen.tube, FROZEN, dash=6), tube_trace("tuned", self.tube, PREDICTED)]
        caption = f"{self.summary()}; {self.model}"
        return Scene(self.footage, self.segment, self.sentence, caption, tuple(traces))


def tube_trace(name: str, tube: Tube, colour: Colour, *, dash: int = 0) -> Trace:
    """A tube as it is drawn, under a name on the axis of time."""
    return Trace(name, tube.start, tube.stop, [tuple(box) for box in tube.boxes.tolist()], colour, dash)
