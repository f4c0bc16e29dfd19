"""Clips in print: boxes on frames, and spans on an axis of time. Free of torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from string import whitespace

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_log = logging.getLogger(__name__)

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Colours that the colour-blind can tell apart, and dashes for those who print in grey.
TRUE: Colour = (0, 225, 150)
PREDICTED: Colour = (240, 90, 20)
FROZEN: Colour = (0, 114, 178)
INK: Colour = (30, 30, 30)
FAINT: Colour = (225, 225, 225)
PAPER: Colour = (255, 255, 255)
BADGES: dict[str, Colour] = {"HQ": (70, 100, 160), "LQ": (110, 80, 60)}

MARGIN = 8
GAP = 4
LINE = 18  # height of a line of text
LANE = 13  # height of a lane of the time axis, with its distance to the next
LABEL = 62  # width of the names left of the lanes
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_SIZE = 13
FONT = ImageFont.load_default(size=_SIZE)
SMALL = ImageFont.load_default(size=11)


@dataclass(frozen=True, slots=True)
class Trace:
    """A tube to draw.

    Args:
        name: of its lane on the axis of time.
        start, stop: half-open, native frames.
        boxes: of each frame xyxy, native pixels, or ``None``.
        colour: of its outline and its lane.
        dash: length of the outline's dashes, 0 for a solid one.
    """

    name: str
    start: int
    stop: int
    boxes: Sequence[Box | None]
    colour: Colour
    dash: int = 0


def pick_frames(count: int, shown: int) -> np.ndarray:
    """Indices of at most ``shown`` of ``count`` frames, spread evenly."""
    return np.unique(np.linspace(0, count - 1, min(shown, count)).round().astype(int))


def stack_strips(strips: Sequence[np.ndarray]) -> np.ndarray:
    """Strips one above the other, on white where they are narrower than the widest.

    Raises:
        ValueError: there is none.
    """
    if not strips:
        raise ValueError("expected at least one strip to stack, got none")
    width = max(strip.shape[1] for strip in strips)
    padded = [np.pad(x, ((0, 0), (0, width - x.shape[1]), (0, 0)), constant_values=255) for x in strips]
    return np.concatenate(padded)


def font_for(text: str, size: int = _SIZE) -> Font:
    """The narrow font of all pictures, or for letters beyond ASCII, which it lacks, a wider one.

    That has the letters of Europe and of the Near East. For other scripts a font of this machine is taken. Letters that
    no font has are drawn as empty boxes, and a warning names them once.
    """
    if text.isascii():
        return ImageFont.load_default(size=size)
    return ImageFont.truetype(_font_file(frozenset(text) - frozenset(whitespace)), size)


@cache
def _font_file(letters: frozenset[str]) -> str:
    """The font that has most of some letters: matplotlib's, unless another one here has more."""
    # Here, because few sentences need them.
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    shipped = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    best, lacking = shipped, _lacking(shipped, letters)
    for other in sorted(findSystemFonts()) if lacking else ():
        if len(left := _lacking(other, letters)) < len(lacking):
            best, lacking = other, left
    if lacking:
        _log.warning(
            "no font of this machine has all letters of a sentence, and pictures show empty boxes for %s; install a "
            "font that has them, such as Noto Sans CJK for Chinese, Japanese and Korean",
            "".join(sorted(lacking)),
        )
    return best


def _lacking(font: str, letters: frozenset[str]) -> frozenset[str]:
    """The letters that a font's file has not; all of them where it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return letters - frozenset(map(chr, FT2Font(font).get_charmap()))
    except (OSError, RuntimeError):
        return letters


def wrap(text: str, width: int, font: Font = FONT) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words, and within a word that is wider: some scripts know no
    spaces."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += _pieces(word, width, font)
    return lines


def _pieces(word: str, width: int, font: Font) -> list[str]:
    """A word in as few lines as it takes, of at least one letter each."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def draw_badge(pen: ImageDraw.ImageDraw, quality: str, degradation: str | None, top: int = MARGIN) -> None:
    """The quality on the left, and what made it low, such as ``defocus:3``."""
    words = quality if degradation is None else f"{quality}  {degradation.replace('_', ' ').replace(':', ' ')}"
    right = MARGIN + FONT.getlength(words) + 2 * GAP
    pen.rounded_rectangle((MARGIN, top - 2, right, top + LINE - 4), radius=4, fill=BADGES[quality])
    pen.text((MARGIN + GAP, top - 2), words, PAPER, FONT)


def draw_frame(
    frame: np.ndarray, frame_id: int, traces: Sequence[Trace], size: tuple[int, int], *, line: int = 2
) -> Image.Image:
    """A frame at ``size`` (width, height), with its number and the boxes of the traces over it, the last on top.

    Their outlines are ``line`` pixels wide, and the dark rim about half as many.
    """
    picture = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    scale = size[0] / frame.shape[1], size[1] / frame.shape[0]
    for trace in traces:
        box = trace.boxes[frame_id - trace.start] if trace.start <= frame_id < trace.stop else None
        if box is not None:
            x0, y0, x1, y1 = box
            scaled = (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1])
            _draw_box(pen, scaled, trace, size, line)
    pen.text((4, 2), str(frame_id), PAPER, SMALL, stroke_width=2, stroke_fill=INK)
    return picture


def draw_lanes(
    pen: ImageDraw.ImageDraw,
    traces: Sequence[Trace],
    length: int,
    shown: Sequence[int],
    *,
    top: int,
    columns: int,
    label: int = LABEL,
) -> None:
    """The traces' spans on the time axis of a clip of ``length`` native frames, with a tick at every shown frame."""
    left, right = MARGIN + label, columns - MARGIN

    def place(frame_id: int) -> float:
        return left + (right - left) * frame_id / length

    for lane, trace in enumerate(traces):
        y = top + lane * LANE
        pen.text((MARGIN, y + (LANE - 3) / 2), trace.name, INK, SMALL, anchor="lm")
        pen.rectangle((left, y, right, y + LANE - 4), fill=FAINT)
        pen.rectangle((place(trace.start), y, place(trace.stop), y + LANE - 4), fill=trace.colour)
    for frame_id in shown:
        x = place(frame_id)
        pen.line((x, top, x, top + len(traces) * LANE - 4), fill=INK)


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, trace: Trace, size: tuple[int, int], line: int) -> None:
    """An outline ``line`` pixels wide with a thin dark rim."""
    width, height = size
    rim = (line + 1) // 2
    x0, x1 = (min(max(round(x), 0), width - 2) for x in (box[0], box[2]))
    y0, y1 = (min(max(round(y), 0), height - 2) for y in (box[1], box[3]))
    if not trace.dash:
        pen.rectangle((x0 - rim, y0 - rim, x1 + 1 + rim, y1 + 1 + rim), outline=INK, width=line + 2 * rim)
        pen.rectangle((x0, y0, x1 + 1, y1 + 1), outline=trace.colour, width=line)
        return
    for start in range(x0, x1 + 1, 2 * trace.dash):
        stop = min(start + trace.dash - 1, x1 + 1)
        for y in (y0, y1):
            pen.rectangle((start - 1, y - 1, stop + 1, y + line), fill=trace.colour, outline=INK)
    for start in range(y0, y1 + 1, 2 * trace.dash):
        stop = min(start + trace.dash - 1, y1 + 1)
        for x in (x0, x1):
            pen.rectangle((x - 1, start - 1, x + line, stop + 1), fill=trace.colour, outline=INK)
