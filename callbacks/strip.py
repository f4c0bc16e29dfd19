"""Pictures of tubes: pure functions from pixels and tubes to pixels."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from stvg_nst.drawing import (
    FONT,
    FROZEN,
    GAP,
    INK,
    LABEL,
    LANE,
    LINE,
    MARGIN,
    PAPER,
    PREDICTED,
    TRUE,
    Colour,
    Trace,
    draw_badge,
    draw_frame,
    draw_lanes,
    font_for,
    pick_frames,
    wrap,
)
from stvg_nst.metrics.functional import tube_iou
from stvg_nst.types import ClipInfo, Tube


def draw_strip(
    frames: np.ndarray,
    info: ClipInfo,
    predicted: Tube,
    *,
    frozen: Tube | None = None,
    num_shown: int = 8,
    height: int = 160,
) -> np.ndarray:
    """A clip's frames side by side with the predicted (solid) and the true (dashed) box, over their spans in time.

    Args:
        frames: (T, H, W, 3) uint8, the frames ``info.frame_ids`` at the native size.
        info: the sample.
        predicted: the network's answer.
        frozen: what the frozen network had answered; its box is solid too, below the other.
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
    picks = pick_frames(len(frames), num_shown)
    scale = height / info.native_size[0]
    width = max(1, round(info.native_size[1] * scale))
    columns = max(len(picks) * (width + GAP) - GAP + 2 * MARGIN, 3 * LABEL)

    font = font_for(info.query)
    caption = wrap(info.query, columns - 2 * MARGIN, font)
    top = MARGIN + LINE * (1 + len(caption)) + GAP
    axis = top + height + 2 * GAP
    true = trace("true", info.target, TRUE, dash=6)
    if frozen is None:
        answers = [trace("predicted", predicted, PREDICTED)]
    else:
        answers = [trace("frozen", frozen, FROZEN), trace("tuned", predicted, PREDICTED)]
    canvas = Image.new("RGB", (columns, axis + (1 + len(answers)) * LANE + MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_badge(pen, info.quality.name, None if info.degradation is None else str(info.degradation))
    t_iou, v_iou = tube_iou(predicted, info.target)
    before = "" if frozen is None else f"frozen vIoU {tube_iou(frozen, info.target)[1]:.2f}, tuned: "
    pen.text((columns - MARGIN, MARGIN - 2), f"{before}tIoU {t_iou:.2f}   vIoU {v_iou:.2f}", INK, FONT, anchor="ra")
    for number, line in enumerate(caption, start=1):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, font)
    for position, index in enumerate(picks):
        # The true box last: where both agree, its dashes still show over the solid line.
        picture = draw_frame(frames[index], info.frame_ids[index], (*answers, true), (width, height))
        canvas.paste(picture, (MARGIN + position * (width + GAP), top))
    shown = [info.frame_ids[index] for index in picks]
    draw_lanes(pen, (true, *answers), info.native_length, shown, top=axis, columns=columns)
    return np.asarray(canvas)


def trace(name: str, tube: Tube, colour: Colour, *, dash: int = 0) -> Trace:
    """A tube as it is drawn: without boxes that do not count, or whose corners are swapped."""
    boxes = [(x0, y0, x1, y1) if x0 <= x1 and y0 <= y1 else None for x0, y0, x1, y1 in tube.boxes.tolist()]
    return Trace(name, tube.start, tube.stop, boxes, colour, dash)
