"""What the data modules of the real data sets share: splits, counts, bad videos, frames at the network's size."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.annotated import AnnotatedSource, Annotation, Convention
from datamodules.annotated.manifest import SOUND, VideoEntry, frames_in_files, manifest_file, read_manifest
from datamodules.annotated.policies import Policy, advice
from datamodules.annotated.source import OfficialSplit
from datamodules.annotated.touched import Fitted, Touched, fit_annotations
from datamodules.augmentation import Augmentation
from datamodules.base import STVGDataModule
from datamodules.degradation.files import DegradedFiles
from datamodules.quality import conditions_name
from datamodules.records import Record
from datamodules.sampling import FramesByClock
from datamodules.scale_and_crop import ScaleAndCrop
from datamodules.shown import ClipAugmentation
from datamodules.splits import Split
from datamodules.transforms import Resize, Resizing, ShortSide
from stvg_nst.results.conditions import SYNTHETIC, Conditions
from stvg_nst.types import Tube

BadVideoPolicy = Literal["refuse", "skip"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class AnnotatedVideos(STVGDataModule):
    """Records of a data set that lies on disk as its authors publish it.

    Anything is chosen on ``val``, a part of the published training set that is held out of ``train``: all clips of a
    film are in the one or in the other, by a hash of the film's name, so that no seed, order or subset moves them.
    ``test`` is opened by a test only.
    """

    root: Path
    """folder of the annotations and of the videos; docs/data.md shows it."""

    _: KW_ONLY

    convention: Convention = "annotated"
    """how the annotation files are read: ``annotated`` as their authors mean them, ``tubedetr`` as TubeDETR's published
    numbers have it; docs/data.md says what differs."""

    held_out: float = 0.1
    """share of the training set's films that ``val`` gets."""

    on_bad_video: BadVideoPolicy = "refuse"
    """``refuse`` refuses bad videos and faulty annotations, ``skip`` leaves them out and counts them; it needs the
    manifest."""

    on_bad_box: Policy = "refuse"
    """of boxes that have no area or leave the frame: ``refuse`` takes them for a fault, ``clip`` cuts them to the
    frame, ``as_published`` keeps them as they are, ``skip_frame`` takes their frames from the target."""

    on_short_clip: Policy = "refuse"
    """of clips that have fewer frames than their annotation speaks of, which are shown as far as they go: ``refuse``
    takes them for a fault, ``clip`` and ``skip_frame`` end the target with the clip, ``as_published`` keeps it as it
    is. All but ``refuse`` need the manifest."""

    manifest: Path | None = None
    """what ``data verify`` wrote; ``null`` for the place where it writes."""

    expect_official_counts: bool = True
    """refuse annotation files with another number of sentences than published."""

    sampling: FramesByClock | None = None
    """frames by the clock of the video, as TubeDETR has them: ``{rate: 5.0, at_most: 200}``; ``null`` for what the data
    set's own options say."""

    resizing: Literal["height", "short_side"] = "height"
    """``height`` brings frames to one height, as CG-STVG; ``short_side`` brings their short side to one length, as
    TubeDETR."""

    resolution: int | None = 420
    """height, or short side, of the frames that the network sees, in pixels; ``null`` for the native one."""

    antialias: bool = True
    """average over the pixels that fall away when a height is reached; the default is how the published models of
    CG-STVG were trained."""

    batch_size: int = 2
    eval_batch_size: int = 1

    degraded: Path | None = None
    """folder of degraded videos (``degrade dataset``), whose files the evaluation shows as LQ clips; ``null`` to
    degrade on the fly."""

    augmentation: Augmentation | ScaleAndCrop | None = None
    """what is done to training clips by chance: ``{flip: 0.7, crop: 0.5}`` cuts and mirrors them, as CG-STVG;
    ``{sizes: [224, 352], sizes_before_crop: [200], smallest_crop: 192}`` scales them and cuts parts out of them, as
    TubeDETR; ``null`` for nothing."""

    def __post_init__(self) -> None:
        if self.features is not None and self.augmentation is not None:
            raise ValueError(
                "a cache of features holds whole clips as they are: set --data.init_args.features null to augment "
                "them, or --data.init_args.augmentation null"
            )
        if self.frames is not None and self.augmentation is not None and self.augmentation.resamples:
            raise ValueError(
                "a cache holds the sampled frames, and this augmentation samples others of every cut: set its crop to "
                "0, or --data.init_args.frames null"
            )
        if isinstance(self.augmentation, ScaleAndCrop) and (self.resizing, self.resolution) != (
            "short_side",
            self.augmentation.resolution,
        ):
            raise ValueError(
                f"training clips of short sides up to {self.augmentation.resolution} need an evaluation at that, got "
                f"resizing {self.resizing} and resolution {self.resolution}; set --data.init_args.resizing short_side, "
                "and the resolution to the largest of --data.init_args.augmentation.sizes"
            )
        super().__post_init__()
        if self.resolution is not None:
            self.require_at_least("resolution", 1)
        self.degraded_files = None if self.degraded is None else DegradedFiles(self.degraded)
        shown = self.shown_conditions(self.evaluation_split)
        if self.degraded is not None and any(":" in condition for condition in shown):
            raise ValueError(
                f"the files in '{self.degraded}' are the LQ versions that the benchmark draws, but this run shows "
                f"{conditions_name(shown)}; set --data.init_args.degraded null to degrade on the fly, or "
                "evaluation_conditions mixed"
            )
        self.source = self.annotated_source()
        self.manifest_file = self.manifest or manifest_file(self.source.root, self.source.name)
        self._touched: dict[str, dict[Split, Touched]] = {option: {} for option in self._policies}

    @abstractmethod
    def annotated_source(self) -> AnnotatedSource:
        """The files below the root."""

    def resize(self) -> Resizing | None:
        if self.resolution is None:
            return None
        return ShortSide(self.resolution) if self.resizing == "short_side" else Resize(self.resolution, self.antialias)

    def training_augmentation(self) -> ClipAugmentation | None:
        return self.augmentation

    @property
    def _policies(self) -> dict[str, BadVideoPolicy | Policy]:
        return {
            "on_bad_video": self.on_bad_video,
            "on_bad_box": self.on_bad_box,
            "on_short_clip": self.on_short_clip,
        }

    def skipped(self, split: Split) -> int:
        skipped = self._touched["on_bad_video"].get(split, Touched())
        return len(self.shown_conditions(split)) * skipped.sentences

    def policies(self) -> dict[str, dict[str, Any]]:
        return {
            option: {"policy": policy, "touched": {split: t._asdict() for split, t in self._touched[option].items()}}
            for option, policy in self._policies.items()
        }

    def conditions(self, stage: str) -> Conditions:
        """As of any data set, whose name says what has been done with bad boxes and short clips, the convention, and
        that it was made up."""
        found = super().conditions(stage)
        chosen = [f"{option} {self._policies[option]}" for option in ("on_bad_box", "on_short_clip")]
        changed = [words for words in chosen if not words.endswith(" refuse")]
        if self.convention != "annotated":
            changed.append(f"convention {self.convention}")
        if self.source.is_synthetic:
            changed.append(SYNTHETIC)
        return found._replace(dataset=", ".join([found.dataset, *changed]))

    def load_records(self, split: Split) -> tuple[Record, ...]:
        """The records of a split.

        Raises:
            FileNotFoundError: its annotation file, or the manifest to skip by, is not there.
            AnnotationError: an annotation is faulty, and faulty ones are not skipped.
            ValueError: the counts are not the published ones, a video is bad and not skipped, or nothing is left.
        """
        assert split != "confirm", "it has no such split"
        official: OfficialSplit = "train" if split == "val" and self.held_out else split
        entries = self._manifest_entries()
        self.source.learn(entries)
        reading = self.source.read(official)
        mismatch = self.source.count_mismatch(official) if self.expect_official_counts else ""
        if mismatch:
            raise ValueError(
                f"'{reading.file}' {mismatch}; fetch it again, or allow a part of the data set with "
                "--data.init_args.expect_official_counts false"
            )
        wanted = [a for a in reading.annotations if split == "test" or self._is_of(a, split)]
        fitted = fit_annotations(
            self._without_bad_videos(wanted, split, entries),
            self.source.with_boxes,
            on_bad_box=self.on_bad_box,
            on_short_clip=self.on_short_clip,
            frames_in_file=frames_in_files(entries),
        )
        annotations, errors = fitted.annotations, [*reading.errors, *fitted.errors]
        # Of a faulty item of the training file one cannot say whether it would have been held out: train counts it.
        unread = reading.lost if official == split else 0
        if errors and self.on_bad_video == "refuse":
            more = f" ({len(errors) - 1:,} more)" if len(errors) > 1 else ""
            _log.error("faulty annotations in %s%s; `python -m stvg_nst data verify` lists all", official, more)
            raise errors[0]
        self._note_touched(split, fitted, wanted, unread)
        if not annotations:
            advice = f"with few films, change held_out ({self.held_out})" if self.held_out else "choose another split"
            raise ValueError(
                f"the {split} split of {self.source.name} in '{self.source.root}' is empty: {len(wanted)} of the "
                f"{len(reading.annotations)} sentences in '{reading.file}' belong to it, and "
                f"{unread + len(wanted)} are skipped; {advice}"
            )
        return tuple(self._record(annotation) for annotation in annotations)

    def cut_from(self, clip_id: str) -> str:
        """The film: a clip's name is that of its video, and of its segment where it has one."""
        return self.source.film(clip_id.partition("/")[0])

    def provenance(self) -> dict[str, Any]:
        chosen: dict[str, Any] = {} if self.convention == "annotated" else {"convention": self.convention}
        if self.sampling is not None:
            chosen["sampling"] = asdict(self.sampling)
        if self.resizing != "height":
            chosen["resizing"] = self.resizing
        return {
            **self.shared_provenance(num_frames=None),
            "dataset": self.source.name,
            "held_out": self.held_out,
            "resolution": self.resolution,
            "antialias": self.antialias if self.resolution is not None and self.resizing == "height" else None,
            **chosen,
        }

    def _note_touched(self, split: Split, fitted: Fitted, wanted: Sequence[Annotation], unread: int) -> None:
        """Counts what each policy has touched of a split, of ``unread`` sentences only that they are skipped."""
        kept = {annotation.item_id for annotation in fitted.annotations}
        skipped = Touched.of((a, a.stop - a.start) for a in wanted if a.item_id not in kept)
        skipped = skipped._replace(sentences=skipped.sentences + unread)
        found = {"on_bad_video": skipped, "on_bad_box": fitted.boxes, "on_short_clip": fitted.short}
        for option, touched in found.items():
            self._touched[option][split] = touched
        if skipped.sentences:
            _log.warning("%s: %d of %d sentences are skipped", split, skipped.sentences, unread + len(wanted))
        for option in ("on_bad_box", "on_short_clip"):
            if found[option].sentences:
                _log.warning("%s: %s %s has touched %s", split, option, self._policies[option], found[option])

    def _is_of(self, annotation: Annotation, split: Split) -> bool:
        """Whether an annotation of the training file, or of an official validation file, belongs to the split."""
        return not self.held_out or self.source.is_held_out(annotation, self.held_out) == (split == "val")

    def _without_bad_videos(
        self, annotations: list[Annotation], split: Split, entries: Mapping[str, VideoEntry]
    ) -> list[Annotation]:
        bad = {}
        for video in dict.fromkeys(annotation.video for annotation in annotations):
            verdict = self._verdict(video, entries)
            if verdict != SOUND and not (self.on_short_clip != "refuse" and entries[video].is_short):
                bad[video] = verdict
        if bad and self.on_bad_video == "refuse":
            video, verdict = next(iter(bad.items()))
            shown = f"; to show what there is of short ones, {advice('on_short_clip')}" * entries[video].is_short
            raise ValueError(
                f"{len(bad)} videos of the {split} split of {self.source.name} are bad by '{self.manifest_file}', the "
                f"first '{video}' ({verdict}); get them anew and run `python -m stvg_nst data verify` again, or leave "
                f"them out with --data.init_args.on_bad_video skip{shown}"
            )
        return [annotation for annotation in annotations if annotation.video not in bad]

    @property
    def _must_know_videos(self) -> bool:
        return self.on_bad_video == "skip" or self.on_short_clip != "refuse"

    @property
    def _verification(self) -> str:
        """The command that writes the manifest."""
        place = "" if self.manifest is None else f" --manifest {self.manifest}"
        return f"`python -m stvg_nst data verify {self.source.name} {self.source.root}{place}`"

    def _manifest_entries(self) -> Mapping[str, VideoEntry]:
        if self.manifest_file.is_file():
            return read_manifest(self.manifest_file, self.source.name)
        if self.manifest is not None:
            raise FileNotFoundError(
                f"--data.init_args.manifest names '{self.manifest}', and there is no such file; correct it, or run "
                f"{self._verification}"
            )
        if self._must_know_videos:
            raise FileNotFoundError(
                f"to skip bad videos, or to show what there is of short ones, they must be known, but there is no "
                f"'{self.manifest_file}': run {self._verification}"
            )
        return {}

    def _verdict(self, video: str, entries: Mapping[str, VideoEntry]) -> str:
        """What the manifest says of a video; where nothing is skipped, one that it does not know counts as sound."""
        entry = entries.get(video)
        again = f"run {self._verification} again"
        if entry is None:
            if self._must_know_videos:
                raise ValueError(f"'{self.manifest_file}' does not know the video '{video}'; {again}")
            return SOUND
        if entry.verdict != SOUND and not entry.is_of(self.source.video_file(video)):
            raise ValueError(f"'{entry.path}' has changed since it was found '{entry.verdict}'; {again}")
        return entry.verdict

    def _record(self, annotation: Annotation) -> Record:
        assert annotation.boxes is not None
        return Record(
            item_id=annotation.item_id,
            clip_id=annotation.clip_id,
            video=self.source.video_file(annotation.video),
            query=annotation.query,
            sentence_type=annotation.sentence_type,
            target=Tube(annotation.start, annotation.stop, torch.from_numpy(annotation.boxes)),
            segment=annotation.segment,
            num_frames=annotation.num_frames or annotation.segment[1],
            fps=annotation.fps,
            size=annotation.size,
            has_tube=annotation.has_tube,
        )
