"""What the data modules of the real data sets share: splits, counts, bad videos, frames at the network's size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.annotated import AnnotatedSource, Annotation
from datamodules.annotated.manifest import SOUND, VideoEntry, manifest_file, read_manifest
from datamodules.annotated.source import OfficialSplit
from datamodules.augmentation import Augmentation
from datamodules.base import Split, STVGDataModule
from datamodules.quality import EvaluationConditions
from datamodules.records import Record
from datamodules.transforms import Resize
from stvg_nst.types import Kernels, Tube

BadVideoPolicy = Literal["error", "skip"]

_log = logging.getLogger(__name__)


class AnnotatedVideos(STVGDataModule):
    """Records of a data set that lies on disk as its authors publish it.

    Anything is chosen on ``val``, a part of the published training set that is held out of ``train``: all clips of a
    film are in the one or in the other, by a hash of the film's name, so that no seed, order or subset moves them.
    ``test`` is opened by a test only.

    Args:
        source: the files.
        held_out: share of the training set's films that ``val`` gets; 0 where ``val`` is an official split.
        on_bad_video: ``error`` refuses a split in which ``data verify`` has found a bad video or in which an annotation
            is faulty; ``skip`` leaves those items out, counts them, and needs the manifest of ``data verify``.
        manifest: that manifest; ``None`` for the place where ``data verify`` writes it.
        expect_official_counts: refuse annotation files with another number of sentences than published.
        resize: how frames are brought to the network's size.
        augmentation: of training clips.
    """

    def __init__(
        self,
        source: AnnotatedSource,
        *,
        held_out: float,
        on_bad_video: BadVideoPolicy,
        manifest: Path | None,
        expect_official_counts: bool,
        resize: Resize | None,
        num_frames: int = 64,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int,
        benchmark_seed: int,
        seed: int,
        mixed: bool,
        variants: int | None,
        features: Path | None,
        frames: Path | None,
        degraded: Path | None,
        kernels: Kernels,
        training_items: int | None,
        twins: bool,
        evaluation_split: Literal["val", "test"],
        evaluation_conditions: EvaluationConditions,
        augmentation: Augmentation | None,
    ) -> None:
        if features is not None and augmentation is not None:
            raise ValueError(
                "a cache of features holds whole clips as they are: set --data.init_args.features null to augment "
                "them, or --data.init_args.augmentation null"
            )
        if frames is not None and augmentation is not None and augmentation.resamples:
            raise ValueError(
                "a cache holds the sampled frames, and this augmentation samples others of every cut: set its crop to "
                "0, or --data.init_args.frames null"
            )
        super().__init__(
            num_frames=num_frames,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            benchmark_seed=benchmark_seed,
            seed=seed,
            mixed=mixed,
            variants=variants,
            features=features,
            frames=frames,
            degraded=degraded,
            kernels=kernels,
            training_items=training_items,
            twins=twins,
            evaluation_split=evaluation_split,
            evaluation_conditions=evaluation_conditions,
        )
        if not 0 <= held_out < 1:
            raise ValueError(f"held_out is a share of the training set and must lie in [0, 1), got {held_out}")
        self.source = source
        self.held_out = held_out
        self.on_bad_video = on_bad_video
        self.manifest = manifest or manifest_file(source.root, source.name)
        self.expect_official_counts = expect_official_counts
        self._resize = resize
        self._augmentation = augmentation
        self._num_skipped: dict[str, int] = {}

    def resize(self) -> Resize | None:
        return self._resize

    def augmentation(self) -> Augmentation | None:
        return self._augmentation

    def skipped(self, split: Split) -> int:
        return len(self.shown_conditions(split)) * self._num_skipped.get(split, 0)

    def load_records(self, split: Split) -> tuple[Record, ...]:
        """The records of a split.

        Raises:
            FileNotFoundError: its annotation file, or the manifest to skip by, is not there.
            AnnotationError: an annotation is faulty, and faulty ones are not skipped.
            ValueError: the counts are not the published ones, a video is bad and not skipped, or nothing is left.
        """
        official: OfficialSplit = "train" if split == "val" and self.held_out else split
        reading = self.source.read(official)
        mismatch = self.source.count_mismatch(official) if self.expect_official_counts else ""
        if mismatch:
            raise ValueError(
                f"'{reading.file}' {mismatch}; fetch it again, or allow a part of the data set with "
                "--data.init_args.expect_official_counts false"
            )
        wanted = [a for a in reading.annotations if split == "test" or self._is_of(a, split)]
        sound = self._without_bad_videos(wanted, split)
        annotations, errors = self.source.with_boxes(sound)
        errors = [*reading.errors, *errors]
        # Of a faulty item of the training file one cannot say whether it would have been held out: train counts it.
        unread = reading.lost if official == split else 0
        if errors and self.on_bad_video == "error":
            more = f" ({len(errors) - 1:,} more)" if len(errors) > 1 else ""
            _log.error("faulty annotations in %s%s; `python -m stvg_nst data verify` lists all", official, more)
            raise errors[0]
        self._num_skipped[split] = unread + len(wanted) - len(annotations)
        if self._num_skipped[split]:
            _log.warning("%s: %d of %d sentences are skipped", split, self._num_skipped[split], unread + len(wanted))
        if not annotations:
            raise ValueError(
                f"the {split} split of {self.source.name} in '{self.source.root}' is empty: {len(wanted)} of the "
                f"{len(reading.annotations)} sentences in '{reading.file}' belong to it, and "
                f"{self._num_skipped[split]} are skipped; with few films, change held_out ({self.held_out})"
            )
        return tuple(self._record(annotation) for annotation in annotations)

    def provenance(self) -> dict[str, Any]:
        resize = self._resize
        return {
            **self.shared_provenance(),
            "dataset": self.source.name,
            "held_out": self.held_out,
            "resolution": None if resize is None else resize.height,
            "antialias": None if resize is None else resize.antialias,
        }

    def _is_of(self, annotation: Annotation, split: Split) -> bool:
        """Whether an annotation of the training file, or of an official validation file, belongs to the split."""
        return not self.held_out or self.source.is_held_out(annotation, self.held_out) == (split == "val")

    def _without_bad_videos(self, annotations: list[Annotation], split: Split) -> list[Annotation]:
        entries = self._manifest_entries()
        bad = {}
        for video in dict.fromkeys(annotation.video for annotation in annotations):
            verdict = self._verdict(video, entries)
            if verdict != SOUND:
                bad[video] = verdict
        if bad and self.on_bad_video == "error":
            video, verdict = next(iter(bad.items()))
            raise ValueError(
                f"{len(bad)} videos of the {split} split of {self.source.name} are bad by '{self.manifest}', the first "
                f"'{video}' ({verdict}); get them anew and run `python -m stvg_nst data verify` again, or leave them "
                "out with --data.init_args.on_bad_video skip"
            )
        return [annotation for annotation in annotations if annotation.video not in bad]

    def _manifest_entries(self) -> Mapping[str, VideoEntry]:
        if self.on_bad_video == "error" and not self.manifest.is_file():
            return {}
        try:
            return read_manifest(self.manifest, self.source.name)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"to skip bad videos they must be known, but there is no '{self.manifest}': run "
                f"`python -m stvg_nst data verify {self.source.name} {self.source.root}`"
            ) from error

    def _verdict(self, video: str, entries: Mapping[str, VideoEntry]) -> str:
        """What the manifest says of a video; where nothing is skipped, one that it does not know counts as sound."""
        entry = entries.get(video)
        again = f"run `python -m stvg_nst data verify {self.source.name} {self.source.root}` again"
        if entry is None:
            if self.on_bad_video == "skip":
                raise ValueError(f"'{self.manifest}' does not know the video '{video}'; {again}")
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
        )
