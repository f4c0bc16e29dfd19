"""Fig. 3: what the frozen grounder, LoRA and null-space tuning answer on one clip of each quality."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from PIL import Image, ImageDraw

from stvg_nst.configuration import Config
from stvg_nst.drawing import (
    FONT,
    GAP,
    INK,
    LANE,
    LINE,
    MARGIN,
    PAPER,
    SMALL,
    TRUE,
    Box,
    Colour,
    Trace,
    draw_badge,
    draw_frame,
    draw_lanes,
    font_for,
    pick_frames,
    stack_strips,
    wrap,
)
from stvg_nst.evaluation import load_ground_truth, load_predictions
from stvg_nst.evaluation.tubes import Tubes
from stvg_nst.machine.whole_files import whole_file
from stvg_nst.report.findings import BASELINE, PEER, REFERENCE, Findings, Replicate
from stvg_nst.results.run_folder import RunFile
from stvg_nst.study.overlays import StudyError, override

LABEL = 72  # width of the names on the left
HEIGHT = 96
SHOWN = 8
# As in Fig. 2.
COLOURS: Mapping[str, Colour] = {BASELINE: (150, 150, 150), PEER: (213, 94, 0), REFERENCE: (0, 114, 178)}


@dataclass(frozen=True, slots=True)
class ShownClip:
    """A sample to look at.

    Args:
        frames: (T, H, W, 3) uint8, in its own quality.
        frame_ids: T native frames.
        length: of the video, in native frames.
        degradation: ``kind:severity``, ``None`` for HQ.
    """

    frames: np.ndarray
    frame_ids: Sequence[int]
    length: int
    query: str
    degradation: str | None


ShowClip = Callable[[Config, str | None, str, str], ShownClip]
"""Finds the sample of a configuration, of data in another folder or ``None``, by item and quality; only a data module
can."""


def draw_figure3(findings: Findings, scope: str | None, show: ShowClip, data: str | None, path: Path) -> str:
    """Draws a typical clip of each quality, and says which clips these are and why.

    Args:
        scope: of LoRA and null-space tuning; by default the first in which both have runs.
        show: reads the pixels.
        data: folder of the data set, instead of the run's.

    Raises:
        StudyError: they have no runs in the scope, or none under the same grounder, seed and test.
    """
    runs = _shown_runs(findings, scope)
    strips, words = [], []
    for quality in ("HQ", "LQ"):
        item_id = typical_item(runs, quality)
        own = runs[REFERENCE]
        config = own.run.config
        for name, value in next(test.settings for test in own.run.tests if test.name == own.test).items():
            config = override(config, name, value)
        clip = show(config, data, item_id, quality)
        strips.append(draw_clip(clip, quality, runs, item_id))
        words.append(f"{quality} {item_id}")
    own = runs[REFERENCE]
    heading = draw_heading(f"{findings.study.title}. {own.run}", strips[0].shape[1])
    with whole_file(path) as partial:
        Image.fromarray(stack_strips([heading, *strips])).save(partial, format="PNG", optimize=True)
    return (
        f"{findings.study.title}. Fig. 3 shows {' and '.join(words)} ({own.run}): of all test clips those whose vIoUs "
        f"under {', '.join(runs)} lie nearest the means, so that they are typical and not chosen for any method."
    )


def draw_heading(text: str, columns: int) -> np.ndarray:
    """The heading of the strips below it, on as many lines as it takes."""
    lines = wrap(text, columns - 2 * MARGIN)
    canvas = Image.new("RGB", (columns, MARGIN + LINE * len(lines)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, FONT)
    return np.asarray(canvas)


def typical_item(runs: Mapping[str, Replicate], quality: str) -> str:
    """The item whose vIoUs under the runs lie nearest to their means, the first by name of several.

    Of an item that is shown in several degradations it is the mean over these.
    """
    scores: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        of_item: defaultdict[str, list[float]] = defaultdict(list)
        for sample in run.results.samples:
            if sample["quality"] == quality:
                of_item[sample["item_id"]].append(sample["vIoU"])
        scores[name] = {item: fmean(found) for item, found in of_item.items()}
    means = {name: fmean(found.values()) for name, found in scores.items()}
    items = sorted(next(iter(scores.values())))
    return min(items, key=lambda item: sum((scores[name][item] - means[name]) ** 2 for name in runs))


def draw_clip(clip: ShownClip, quality: str, runs: Mapping[str, Replicate], item_id: str) -> np.ndarray:
    """A row of frames for each run, its answer (solid) with the truth (dashed), over all spans on one axis of time."""
    condition = clip.degradation or quality
    true = _true_trace(next(iter(runs.values())), item_id)
    answers = {name: _trace(name, run, item_id, condition) for name, run in runs.items()}
    picks = pick_frames(len(clip.frames), SHOWN)
    width = round(clip.frames.shape[2] * HEIGHT / clip.frames.shape[1])
    columns = 2 * MARGIN + LABEL + len(picks) * (width + GAP) - GAP
    font = font_for(clip.query)
    caption = wrap(clip.query, columns - 2 * MARGIN, font)
    top = MARGIN + LINE * (1 + len(caption)) + GAP
    axis = top + len(answers) * (HEIGHT + GAP) + GAP
    canvas = Image.new("RGB", (columns, axis + (1 + len(answers)) * LANE + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(canvas)
    draw_badge(pen, quality, clip.degradation)
    for number, line in enumerate(caption, start=1):
        pen.text((MARGIN, MARGIN + number * LINE), line, INK, font)
    for row, (name, answer) in enumerate(answers.items()):
        y = top + row * (HEIGHT + GAP)
        _draw_row_label(pen, name, runs[name], item_id, condition, y)
        for place, index in enumerate(picks):
            picture = draw_frame(clip.frames[index], clip.frame_ids[index], (answer, true), (width, HEIGHT))
            canvas.paste(picture, (MARGIN + LABEL + place * (width + GAP), y))
    shown = [clip.frame_ids[index] for index in picks]
    draw_lanes(pen, (true, *answers.values()), clip.length, shown, top=axis, columns=columns, label=LABEL)
    return np.asarray(canvas)


def _draw_row_label(
    pen: ImageDraw.ImageDraw, name: str, run: Replicate, item_id: str, condition: str, top: int
) -> None:
    shown = (item_id, condition)
    sample = next(s for s in run.results.samples if (s["item_id"], s["degradation"] or s["quality"]) == shown)
    pen.text((MARGIN, top + 2), name, COLOURS[name], FONT)
    for line, key in enumerate(("tIoU", "vIoU"), start=1):
        pen.text((MARGIN, top + 4 + line * LINE), f"{key} {sample[key]:.2f}", INK, SMALL)


def _shown_runs(findings: Findings, scope: str | None) -> dict[str, Replicate]:
    """The frozen grounder, LoRA and null-space tuning under the first grounder, seed and test that both have."""
    for candidate in findings.scopes if scope is None else (scope,):
        rows = {method.name: method for method in findings.methods if method.scope == candidate}
        if PEER in rows and REFERENCE in rows:
            theirs = {own.place: own for own, _ in rows[PEER].replicates}
            for own, baseline in rows[REFERENCE].replicates:
                if own.place in theirs:
                    return {BASELINE: baseline, PEER: theirs[own.place], REFERENCE: own}
    where = f"in scope '{scope}'" if scope is not None else "in any scope"
    raise StudyError(f"Fig. 3 needs a run of {PEER} and one of {REFERENCE} {where} under the same seed; run them first")


def _trace(name: str, run: Replicate, item_id: str, condition: str) -> Trace:
    predictions = load_predictions(run.folder / RunFile.PREDICTIONS)
    index = [*zip(predictions.item_ids, predictions.conditions, strict=True)].index((item_id, condition))
    return _of(predictions.tubes, index, name, COLOURS[name], dash=0)


def _true_trace(run: Replicate, item_id: str) -> Trace:
    truth = load_ground_truth(run.folder / RunFile.GROUND_TRUTH)
    return _of(truth.tubes, truth.item_ids.index(item_id), "true", TRUE, dash=6)


def _of(tubes: Tubes, index: int, name: str, colour: Colour, *, dash: int) -> Trace:
    one = tubes.take(np.array([index]))
    boxes: list[Box | None] = [tuple(box.tolist()) if (box[:2] <= box[2:]).all() else None for box in one.boxes]
    return Trace(name, int(one.start[0]), int(one.stop[0]), boxes, colour, dash)
