"""An answer to look at: a film with the tube drawn over it, and a strip of frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datamodules.footage import Footage
from datamodules.playable import Sound, write_playable
from stvg_nst.drawing import (
    FAINT,
    GAP,
    INK,
    LANE,
    LINE,
    MARGIN,
    PAPER,
    Trace,
    draw_frame,
    draw_lanes,
    font_for,
    pick_frames,
    wrap,
)
from stvg_nst.machine.outputs import check_outputs
from stvg_nst.machine.whole_files import whole_file

LEAST_HEIGHT = 360  # of a film's picture; a smaller one is enlarged by a whole number
LEAST_WIDTH = 320  # of a film, for the words below its picture
STRIP_HEIGHT, STRIP_FRAMES = 160, 8


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be drawn.

    Args:
        footage: the film.
        segment: of the film, half-open, native frames.
        sentence: that is answered.
        caption: what else is to be said, in a line.
        traces: the tubes, the last on top.
    """

    footage: Footage
    segment: tuple[int, int]
    sentence: str
    caption: str
    traces: tuple[Trace, ...]


def draw_film(scene: Scene, path: Path) -> None:
    """Writes the segment as a film that browsers play, with its sound, and with a panel below the picture.

    Raises:
        ValueError: the file is not named .mp4, or is the film itself.
        VideoDecodeError: the film has gone since it was opened.
        OSError: the file cannot be written.
    """
    check_outputs({"the film with the answer": path}, inputs=[scene.footage.file])
    footage, (start, stop) = scene.footage, scene.segment
    begin = footage.time_of(start)
    sound = None
    if footage.file is not None and footage.origin is not None:
        sound = Sound(footage.file, footage.origin + begin, footage.origin + footage.time_of(stop))
    times = (footage.time_of(frame) - begin for frame in range(start, stop))
    write_playable(path, _drawn_frames(scene), times, fps=footage.fps, sound=sound)


def draw_strip(scene: Scene, path: Path) -> None:
    """Writes frames side by side, from a little before the uppermost tube to a little after, over an axis of time.

    Raises:
        ValueError: the file is not named .png, or is the film itself.
        VideoDecodeError: the film has gone since it was opened.
        OSError: the file cannot be written.
    """
    check_outputs({"the strip": path}, inputs=[scene.footage.file])
    if path.suffix.lower() != ".png":
        raise ValueError(f"a strip is written as PNG and must be named .png, got '{path}'")
    footage, (start, stop) = scene.footage, scene.segment
    shown = _around(scene.traces[-1], start, stop)
    height, width = footage.size
    size = max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT
    columns = max(len(shown) * (size[0] + GAP) - GAP + 2 * MARGIN, LEAST_WIDTH)
    fonts = {text: font_for(text) for text in (scene.sentence, scene.caption)}
    words = [(line, font) for text, font in fonts.items() for line in wrap(text, columns - 2 * MARGIN, font)]
    top = MARGIN + LINE * len(words) + GAP
    axis = top + STRIP_HEIGHT + 2 * GAP
    canvas = Image.new("RGB", (columns, axis + len(scene.traces) * LANE + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, (line, font) in enumerate(words):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, font)
    for place, (frame, picture) in enumerate(zip(shown, footage.frames(shown), strict=True)):
        drawn = draw_frame(picture, frame, scene.traces, size)
        canvas.paste(drawn, (MARGIN + place * (size[0] + GAP), top))
    # The axis is that of the segment, whose first frame is its 0.
    lanes = [replace(trace, start=trace.start - start, stop=trace.stop - start) for trace in scene.traces]
    draw_lanes(pen, lanes, stop - start, [frame - start for frame in shown], top=axis, columns=columns)
    with whole_file(path) as partial:
        canvas.save(partial, format="PNG", optimize=True)


def _around(trace: Trace, start: int, stop: int) -> list[int]:
    """Frames of a segment, spread evenly over a tube and a quarter of its length on both sides."""
    margin = (trace.stop - trace.start + 3) // 4
    first, last = max(start, trace.start - margin), min(stop, trace.stop + margin)
    return [first + int(index) for index in pick_frames(last - first, STRIP_FRAMES)]


def _drawn_frames(scene: Scene) -> Iterator[np.ndarray]:
    footage, ids = scene.footage, range(*scene.segment)
    height, width = footage.size
    scale = ceil(LEAST_HEIGHT / height)
    size = width * scale, height * scale
    line = max(2, round(max(size) / 320))
    traces = [replace(trace, dash=3 * line) if trace.dash else trace for trace in scene.traces]
    columns = max(size[0], LEAST_WIDTH)
    panel = _Panel(scene, columns)
    for frame, picture in zip(ids, footage.frames(ids), strict=True):
        canvas = Image.new("RGB", (columns, size[1] + panel.height))
        canvas.paste(draw_frame(picture, frame, traces, size, line=line), ((columns - size[0]) // 2, 0))
        canvas.paste(panel.at(frame), (0, size[1]))
        yield np.asarray(canvas)


class _Panel:
    """What stands below the picture of a film: sentence, caption, and the spans with a mark at the present frame.

    Args:
        scene: what is drawn.
        width: of the film, in pixels.
    """

    def __init__(self, scene: Scene, width: int) -> None:
        self._scene = scene
        unit = max(14, round(width / 48))  # height of letters; in smaller ones the spaces are too narrow to be seen
        font, small = font_for(scene.sentence, unit), font_for(scene.caption, round(0.85 * unit))
        margin, line, lane = round(0.6 * unit), round(1.35 * unit), round(unit)
        words = wrap(scene.sentence, width - 2 * margin, font)
        caption = wrap(scene.caption, width - 2 * margin, small)
        label = max(small.getlength(trace.name) for trace in scene.traces) + margin
        self._left, self._right = margin + label, width - margin
        self._top = margin + line * (len(words) + len(caption)) + margin // 2
        self._bottom = self._top + lane * len(scene.traces)
        self.height = self._bottom + margin
        self._base = Image.new("RGB", (width, self.height), PAPER)
        pen = ImageDraw.Draw(self._base)
        for number, text in enumerate(words):
            pen.text((margin, margin + number * line), text, INK, font)
        for number, text in enumerate(caption, start=len(words)):
            pen.text((margin, margin + number * line), text, INK, small)
        for number, trace in enumerate(scene.traces):
            top = self._top + number * lane
            pen.text((margin, top + 0.4 * lane), trace.name, INK, small, anchor="lm")
            pen.rectangle((self._left, top, self._right, top + 0.8 * lane), fill=FAINT)
            pen.rectangle((self._place(trace.start), top, self._place(trace.stop), top + 0.8 * lane), fill=trace.colour)
        self._mark = max(2, unit // 6)

    def at(self, frame: int) -> Image.Image:
        """The panel while a frame is shown."""
        panel = self._base.copy()
        place = self._place(frame)
        shape = (place, self._top - self._mark, place + self._mark, self._bottom + self._mark)
        ImageDraw.Draw(panel).rectangle(shape, fill=INK)
        return panel

    def _place(self, frame: int) -> float:
        """Of a frame on the axis of time, which may be the one after the last."""
        footage, (start, stop) = self._scene.footage, self._scene.segment
        begin, end = footage.time_of(start), footage.time_of(stop)
        return self._left + (self._right - self._left) * (footage.time_of(frame) - begin) / (end - begin)
