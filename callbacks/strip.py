"""Pictures of tubes: pure functions from pixels and tubes to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stvg_nst.metrics.functional import tube_iou
from stvg_nst.types import ClipInfo, Quality, Tube

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

# Two colours that the colour-blind can tell apart, and dashes for those who print in grey.
TRUE: Colour = (0, 225, 150)
PREDICTED: Colour = (240, 90, 20)
INK: Colour = (30, 30, 30)
FAINT: Colour = (225, 225, 225)
PAPER: Colour = (255, 255, 255)
BADGES: dict[Quality, Colour] = {Quality.HQ: (70, 100, 160), Quality.LQ: (110, 80, 60)}

MARGIN = 8
GAP = 4
LINE = 18  # height of a line of text
LANE = 13  # height of a lane of the time axis, with its distance to the next
LABEL = 62  # width of the names left of the lanes
FONT = ImageFont.load_default(size=13)
SMALL = ImageFont.load_default(size=11)


def draw_strip(
    frames: np.ndarray, info: ClipInfo, predicted: Tube, *, num_shown: int = 8, height: int = 160
) -> np.ndarray:
    """A clip's frames side by side with the predicted (solid) and the true (dashed) box, over both spans in time.

    Args:
        frames: (T, H, W, 3) uint8, the frames ``info.frame_ids`` at the native size.
        info: the sample.
        predicted: the network's answer.
        num_shown: frames to show at most, spread evenly over the T.
        height: pixels of a shown frame.

    Returns:
        (rows, columns, 3) uint8.

    Raises:
        ValueError: the frames are not those of ``info``.
    """
    expected = (len(info.frame_ids), *info.native_size, 3)
    if frames.shape != expected or frames.dtype != np.uint8:
        raise ValueError(
            f"the frames of clip '{info.item_id}' must be {expected} uint8, got {frames.shape} {frames.dtype}"
        )
    picks = np.unique(np.linspace(0, len(frames) - 1, min(num_shown, len(frames))).round().astype(int))
    scale = height / info.native_size[0]
    width = max(1, round(info.native_size[1] * scale))
    columns = max(len(picks) * (width + GAP) - GAP + 2 * MARGIN, 3 * LABEL)

    caption = wrap(info.query, columns - 2 * MARGIN)
    top = MARGIN + LINE * (1 + len(caption)) + GAP
    axis = top + height + 2 * GAP
    canvas = Image.new("RGB", (columns, axis + 2 * LANE + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    _draw_heading(pen, info, predicted, columns)
    for number, line in enumerate(caption, start=1):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, FONT)
    for position, index in enumerate(picks):
        picture = _draw_frame(frames[index], info.frame_ids[index], info.target, predicted, (width, height))
        canvas.paste(picture, (MARGIN + position * (width + GAP), top))
    _draw_time(pen, info, predicted, [info.frame_ids[index] for index in picks], axis, columns)
    return np.asarray(canvas)


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


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words; a word that is wider stands alone."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and FONT.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _draw_heading(pen: ImageDraw.ImageDraw, info: ClipInfo, predicted: Tube, columns: int) -> None:
    """The quality on the left, the overlap with the true tube on the right."""
    badge = info.quality.name
    if info.degradation is not None:
        badge += f"  {info.degradation.kind.replace('_', ' ')} {info.degradation.severity}"
    right = MARGIN + FONT.getlength(badge) + 2 * GAP
    pen.rounded_rectangle((MARGIN, MARGIN - 2, right, MARGIN + LINE - 4), radius=4, fill=BADGES[info.quality])
    pen.text((MARGIN + GAP, MARGIN - 2), badge, PAPER, FONT)
    t_iou, v_iou = tube_iou(predicted, info.target)
    pen.text((columns - MARGIN, MARGIN - 2), f"tIoU {t_iou:.2f}   vIoU {v_iou:.2f}", INK, FONT, anchor="ra")


def _draw_frame(frame: np.ndarray, frame_id: int, true: Tube, predicted: Tube, size: tuple[int, int]) -> Image.Image:
    """One frame at ``size`` (width, height), with the boxes of the tubes that cover it and its number."""
    picture = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    scale = size[0] / frame.shape[1], size[1] / frame.shape[0]
    # The true box last: where both agree, its dashes still show over the solid line.
    for tube, colour, dash in ((predicted, PREDICTED, 0), (true, TRUE, 6)):
        if tube.start <= frame_id < tube.stop:
            x0, y0, x1, y1 = tube.boxes[frame_id - tube.start].tolist()
            _draw_box(pen, (x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]), colour, dash, size)
    pen.text((4, 2), str(frame_id), PAPER, SMALL, stroke_width=2, stroke_fill=INK)
    return picture


def _draw_box(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, dash: int, size: tuple[int, int]) -> None:
    """An outline two pixels wide with a thin dark rim; ``dash`` is the length of its dashes, 0 for a solid one."""
    width, height = size
    x0, x1 = (min(max(round(x), 0), width - 2) for x in (box[0], box[2]))
    y0, y1 = (min(max(round(y), 0), height - 2) for y in (box[1], box[3]))
    if not dash:
        pen.rectangle((x0 - 1, y0 - 1, x1 + 2, y1 + 2), outline=INK, width=4)
        pen.rectangle((x0, y0, x1 + 1, y1 + 1), outline=colour, width=2)
        return
    for start in range(x0, x1 + 1, 2 * dash):
        stop = min(start + dash - 1, x1 + 1)
        for y in (y0, y1):
            pen.rectangle((start - 1, y - 1, stop + 1, y + 2), fill=colour, outline=INK)
    for start in range(y0, y1 + 1, 2 * dash):
        stop = min(start + dash - 1, y1 + 1)
        for x in (x0, x1):
            pen.rectangle((x - 1, start - 1, x + 2, stop + 1), fill=colour, outline=INK)


def _draw_time(
    pen: ImageDraw.ImageDraw, info: ClipInfo, predicted: Tube, shown: Sequence[int], top: int, columns: int
) -> None:
    """Both spans on the clip's time axis, with a tick at every shown frame."""
    left, right = MARGIN + LABEL, columns - MARGIN

    def place(frame_id: int) -> float:
        return left + (right - left) * frame_id / info.native_length

    for lane, (name, tube, colour) in enumerate((("true", info.target, TRUE), ("predicted", predicted, PREDICTED))):
        y = top + lane * LANE
        pen.text((MARGIN, y + (LANE - 3) / 2), name, INK, SMALL, anchor="lm")
        pen.rectangle((left, y, right, y + LANE - 4), fill=FAINT)
        pen.rectangle((place(tube.start), y, place(tube.stop), y + LANE - 4), fill=colour)
    for frame_id in shown:
        x = place(frame_id)
        pen.line((x, top, x, top + 2 * LANE - 4), fill=INK)
