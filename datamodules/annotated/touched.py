"""Annotations under the policies for bad boxes and short clips: the outcome, and how much is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from datamodules.annotated.annotation import Annotation
from datamodules.annotated.fields import AnnotationError
from datamodules.annotated.policies import Policy, bad_boxes, fit_to_clip, fit_to_frame, lacking_frames
from stvg_nst.counting import counted


class Touched(NamedTuple):
    """How much a policy has changed, or would have refused.

    Args:
        sentences: with at least one such frame.
        clips: that those are about.
        frames: summed over the sentences.
    """

    sentences: int = 0
    clips: int = 0
    frames: int = 0

    @classmethod
    def of(cls, frames: Iterable[tuple[Annotation, int]]) -> Touched:
        """Counts annotations, each with the number of its frames that are touched."""
        touched = [(annotation, count) for annotation, count in frames if count]
        clips = {annotation.clip_id for annotation, _ in touched}
        return cls(len(touched), len(clips), sum(count for _, count in touched))

    def __str__(self) -> str:
        parts = counted(self.sentences, "sentence"), counted(self.clips, "clip"), counted(self.frames, "frame")
        return "{} of {}, {}".format(*parts)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What policies have made of annotations.

    Args:
        annotations: with their boxes, in their order.
        errors: of those that are refused, or of which nothing is left.
        short, boxes: what was touched of the former, because its clip is short, or its boxes are bad.
    """

    annotations: tuple[Annotation, ...]
    errors: tuple[AnnotationError, ...]
    short: Touched
    boxes: Touched


def fit_annotations(
    annotations: Iterable[Annotation],
    with_boxes: Callable[[Sequence[Annotation]], tuple[list[Annotation], list[AnnotationError]]],
    *,
    on_bad_box: Policy,
    on_short_clip: Policy,
    frames_in_file: Mapping[str, int],
) -> Fitted:
    """Brings annotations into their clips, looks up their boxes, and brings these into the frames.

    Args:
        annotations: each with an item id of its own.
        with_boxes: of their source.
        on_bad_box, on_short_clip: the policies.
        frames_in_file: of the videos of which it is known.
    """
    within, errors, lacking = [], [], {}
    for annotation in annotations:
        frames = frames_in_file.get(annotation.video)
        try:
            within.append(fit_to_clip(annotation, on_short_clip, frames))
        except AnnotationError as error:
            errors.append(error)
        else:
            lacking[annotation.item_id] = lacking_frames(annotation, frames)
    boxed, without_boxes = with_boxes(within)
    errors += without_boxes
    fitted, bad = [], {}
    for annotation in boxed:
        try:
            fitted.append(fit_to_frame(annotation, on_bad_box))
        except AnnotationError as error:
            errors.append(error)
        else:
            bad[annotation.item_id] = int(bad_boxes(annotation).sum())
    return Fitted(
        annotations=tuple(fitted),
        errors=tuple(errors),
        short=Touched.of((annotation, lacking[annotation.item_id]) for annotation in fitted),
        boxes=Touched.of((annotation, bad[annotation.item_id]) for annotation in fitted),
    )


@dataclass(frozen=True, slots=True)
class Survey:
    """What each policy would touch of some annotations.

    Args:
        short: clips that lack frames.
        boxes: bad boxes.
        without_area: of their frames, those that ``clip`` leaves without an area.
        without_any: of their sentences, those of which ``skip_frame`` leaves nothing.
    """

    short: Touched
    boxes: Touched
    without_area: int
    without_any: int

    @classmethod
    def of(cls, annotations: Iterable[Annotation], frames_in_file: Mapping[str, int]) -> Survey:
        """Looks at annotations, with boxes or without.

        Args:
            frames_in_file: of the videos of which it is known.
        """
        short, boxes, without_area, without_any = [], [], 0, 0
        for annotation in annotations:
            short.append((annotation, lacking_frames(annotation, frames_in_file.get(annotation.video))))
            if annotation.boxes is None:
                continue
            bad = bad_boxes(annotation)
            boxes.append((annotation, int(bad.sum())))
            if bad.any():
                cut = fit_to_frame(annotation, "clip").boxes
                assert cut is not None
                without_area += int((cut[:, :2] >= cut[:, 2:]).any(axis=1).sum())
                without_any += int(bad.all())
        return cls(Touched.of(short), Touched.of(boxes), without_area, without_any)

    def lines(self) -> tuple[str, ...]:
        """The same in words, nothing where nothing would be touched."""
        found = []
        if self.boxes.frames:
            cut, kept = self.boxes.frames - self.without_area, self.boxes.frames
            gone = f", which leaves nothing of {counted(self.without_any, 'sentence')}" * bool(self.without_any)
            found.append(
                f"--data.init_args.on_bad_box would touch {self.boxes}: clip cuts {cut:,} boxes to the frame and "
                f"leaves {self.without_area:,} without an area; as_published scores {kept:,} boxes as they are; "
                f"skip_frame takes {kept:,} frames from the targets{gone}"
            )
        if self.short.frames:
            found.append(
                f"--data.init_args.on_short_clip would touch {self.short}: clip and skip_frame end the targets with "
                "the clips; as_published keeps them, and what cannot be shown counts as missed"
            )
        return tuple(found)
