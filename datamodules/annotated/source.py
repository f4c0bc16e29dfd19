"""Where a data set's files lie: annotation file -> annotations with boxes, video name -> video file."""

from __future__ import annotations

import os
import re
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from datamodules.annotated.annotation import Annotation, Reading
from datamodules.annotated.fields import AnnotationError, read_json
from datamodules.annotated.hcstvg_format import read_hcstvg
from datamodules.annotated.vidstg_format import Trajectories, read_merged, read_sentences, with_trajectory
from stvg_nst.seeding import derive_seed
from stvg_nst.types import SENTENCE_TYPES, SentenceType

DataSet = Literal["hcstvg_v1", "hcstvg_v2", "vidstg"]
DATA_SETS: tuple[DataSet, ...] = get_args(DataSet)
OfficialSplit = Literal["train", "val", "test"]

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov")
_YOUTUBE = re.compile(r"\d+_.*?([\w-]{11})")


class AnnotatedSource(ABC):
    """The files of a data set below one folder.

    Args:
        root: that folder.

    Attributes:
        name: of the data set.
        official_counts: declarative and interrogative sentences of each split, as published.
    """

    name: DataSet
    official_counts: Mapping[OfficialSplit, tuple[int, int]]

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._readings: dict[OfficialSplit, Reading] = {}
        self._videos: NamedFiles | None = None

    @property
    def splits(self) -> tuple[OfficialSplit, ...]:
        """The splits that are published with their answers."""
        return tuple(self.official_counts)

    def annotation_file(self, split: OfficialSplit) -> Path:
        """The first of the split's annotation files that is there, or the one to fetch.

        Raises:
            ValueError: the data set has no such split.
        """
        if split not in self.official_counts:
            raise ValueError(f"{self.name} has the splits {', '.join(self.splits)}, got '{split}'")
        files = self._annotation_files(split)
        return next((file for file in files if file.is_file()), files[0])

    def read(self, split: OfficialSplit) -> Reading:
        """The split's annotation file, read once.

        Raises:
            FileNotFoundError: it is not there.
            AnnotationError: it is damaged as a whole. Faults of single items are returned.
        """
        if split not in self._readings:
            self._readings[split] = _with_unique_items(self._read(self.annotation_file(split)))
        return self._readings[split]

    def count_mismatch(self, split: OfficialSplit) -> str:
        """How the numbers of sentences differ from the published ones, empty where they do not."""
        reading, expected = self.read(split), self.official_counts[split]
        got = sentence_counts(reading.annotations)
        if sum(got) + reading.lost == sum(expected) and (reading.lost > 0 or got == expected):
            return ""
        return f"has {_counted(got, reading.lost)}, the published {split} split {_counted(expected)}"

    def video_file(self, name: str) -> Path:
        """The file of a video, wherever it lies below the video folders; where there is none, where it should be."""
        if self._videos is None:
            videos = (path for folder in self._video_folders() for path in _files_below(folder))
            self._videos = NamedFiles((self._video_key(p), p) for p in videos if p.suffix.lower() in _VIDEO_SUFFIXES)
        return self._videos.get(name) or self.video_folder / self._video_name(name)

    @property
    def video_folder(self) -> Path:
        """Where videos belong, whether or not they are there."""
        return self._video_folders()[0]

    def with_boxes(self, annotations: Sequence[Annotation]) -> tuple[list[Annotation], list[AnnotationError]]:
        """Annotations with their boxes, and the errors of those that have none."""
        return list(annotations), []

    def film(self, video: str) -> str:
        """What a video was cut from: no two splits that we make share one."""
        return video

    def is_held_out(self, annotation: Annotation, share: float) -> bool:
        """Whether an annotation of the training split is for validation: a function of its film's name alone."""
        return derive_seed("held-out", self.name, self.film(annotation.video)) / 2**63 < share

    @abstractmethod
    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        """In the order of preference."""

    @abstractmethod
    def _read(self, file: Path) -> Reading: ...

    @abstractmethod
    def _video_folders(self) -> Sequence[Path]: ...

    def _video_key(self, path: Path) -> str:
        """The name that annotations have for a video file."""
        return path.name

    def _video_name(self, name: str) -> str:
        return name


class NamedFiles:
    """Files by name, in whatever Unicode form: some systems take the names of files apart, accents from letters.

    Args:
        files: names and files; of several with one name the first.
    """

    def __init__(self, files: Iterable[tuple[str, Path]]) -> None:
        self._exact: dict[str, Path] = {}
        self._composed: dict[str, Path] = {}
        for name, path in files:
            self._exact.setdefault(name, path)
            self._composed.setdefault(unicodedata.normalize("NFC", name), path)

    def get(self, name: str) -> Path | None:
        return self._exact.get(name) or self._composed.get(unicodedata.normalize("NFC", name))


class HCSTVGSource(AnnotatedSource):
    """HC-STVG.

    Version 2 is tested on its official validation set, as in the literature: the answers of its test set are not
    published.

    Args:
        root: holds ``v1_video`` (``v2_video``, or ``video``) and ``annos/hcstvg_v1`` (``v2``) with ``train.json`` and
            ``test.json``, in version 2 also under the original names ``trainv2.json`` and ``valv2.json``.
        version: ``v1`` or ``v2``.
    """

    def __init__(self, root: Path, version: Literal["v1", "v2"]) -> None:
        super().__init__(root)
        self.version = version
        self.name = "hcstvg_v1" if version == "v1" else "hcstvg_v2"
        self.official_counts = {"train": (4500, 0), "test": (1160, 0)}
        if version == "v2":
            self.official_counts = {"train": (10131, 0), "test": (2000, 0)}

    def film(self, video: str) -> str:
        """The eleven characters that name a film on YouTube, from ``NUMBER_NAME.mp4``; else the video's name."""
        match = _YOUTUBE.fullmatch(Path(video).stem)
        return match[1] if match else video

    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        names = [f"{split}.json"]
        if self.version == "v2":
            names.append({"train": "trainv2.json", "test": "valv2.json"}[split])
        return [self.root / "annos" / f"hcstvg_{self.version}" / name for name in names]

    def _read(self, file: Path) -> Reading:
        return read_hcstvg(file)

    def _video_folders(self) -> Sequence[Path]:
        return self.root / f"{self.version}_video", self.root / "video"


class VidSTGSource(AnnotatedSource):
    """VidSTG.

    Args:
        root: holds ``videos`` (or ``video``) with VidOR's files, and either ``sent_annos`` (the official sentences)
            with ``bbox_annos`` (VidOR's annotation of each video), or ``vstg_annos`` (both merged). The former is
            preferred where both are there.
    """

    name: DataSet = "vidstg"
    official_counts: Mapping[OfficialSplit, tuple[int, int]] = {
        "train": (36202, 44482),
        "val": (3996, 4960),
        "test": (4610, 5693),
    }

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._trajectories: NamedFiles | None = None

    def with_boxes(self, annotations: Sequence[Annotation]) -> tuple[list[Annotation], list[AnnotationError]]:
        """Adds the boxes of the official sentences' targets from VidOR, opening the file of each video once."""
        by_video: dict[str, list[int]] = {}
        for index, annotation in enumerate(annotations):
            by_video.setdefault(annotation.video, []).append(index)
        found: dict[int, Annotation] = {}
        errors = []
        for video, indices in by_video.items():
            trajectories: Trajectories | AnnotationError | None = None
            for index in indices:
                annotation = annotations[index]
                try:
                    if annotation.boxes is None:
                        trajectories = trajectories or self._read_trajectories(video)
                        if isinstance(trajectories, AnnotationError):
                            raise trajectories
                        annotation = with_trajectory(annotation, trajectories)
                    found[index] = annotation
                except AnnotationError as error:
                    errors.append(error)
        return [found[index] for index in sorted(found)], errors

    def trajectory_file(self, video: str) -> Path:
        """VidOR's annotation of a video, wherever it lies below ``bbox_annos``."""
        if self._trajectories is None:
            files = _files_below(self.root / "bbox_annos")
            self._trajectories = NamedFiles((path.stem, path) for path in files if path.suffix == ".json")
        return self._trajectories.get(video) or self.root / "bbox_annos" / f"{video}.json"

    def _read_trajectories(self, video: str) -> Trajectories | AnnotationError:
        file = self.trajectory_file(video)
        try:
            return Trajectories(file, read_json(file).value)
        except FileNotFoundError:
            return AnnotationError(file, "", "", f"VidOR's annotation of video {video}", "no such file")
        except AnnotationError as error:
            return error

    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        return self.root / "sent_annos" / f"{split}_annotations.json", self.root / "vstg_annos" / f"{split}.json"

    def _read(self, file: Path) -> Reading:
        return read_merged(file) if file.parent.name == "vstg_annos" else read_sentences(file)

    def _video_folders(self) -> Sequence[Path]:
        return self.root / "videos", self.root / "video"

    def _video_key(self, path: Path) -> str:
        return path.stem

    def _video_name(self, name: str) -> str:
        return f"{name}.mp4"


def open_source(name: DataSet, root: Path) -> AnnotatedSource:
    """The files of the data set called ``name`` below ``root``."""
    if name == "vidstg":
        return VidSTGSource(root)
    return HCSTVGSource(root, "v1" if name == "hcstvg_v1" else "v2")


def sentence_counts(annotations: Sequence[Annotation]) -> tuple[int, int]:
    """Declarative and interrogative sentences."""
    counts: Counter[SentenceType] = Counter(annotation.sentence_type for annotation in annotations)
    declarative, interrogative = (counts[sentence_type] for sentence_type in SENTENCE_TYPES)
    return declarative, interrogative


def _files_below(folder: Path) -> list[Path]:
    """The files at any depth below a folder, sorted; linked folders are entered, but no folder twice.

    Neither ``Path.rglob``, which enters no link, nor a walk that follows one back to a folder above it would do.
    """
    files: list[Path] = []
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_unless_absent):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()  # of several ways to a folder, always the same one
        files += [Path(place, name) for name in names]
    return sorted(files)


def _unless_absent(error: OSError) -> None:
    """Raises the error of a folder that is there and cannot be read: its files are not missing."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _counted(counts: tuple[int, int], faulty: int = 0) -> str:
    parts = [f"{counts[0]:,} declarative", f"{counts[1]:,} interrogative"] + [f"{faulty:,} faulty"] * bool(faulty)
    return f"{sum(counts) + faulty:,} sentences ({', '.join(parts)})"


def _with_unique_items(reading: Reading) -> Reading:
    """Takes out annotations whose item id an earlier one has, as errors; keys that stand twice are errors as well."""
    file, seen, kept = reading.file, set[str](), []
    errors = [AnnotationError(file, key, "", "each key once in an object", "another") for key in reading.duplicates]
    for annotation in reading.annotations:
        name = unicodedata.normalize("NFC", annotation.item_id)  # two forms of one name are one file on some systems
        if name in seen:
            errors.append(AnnotationError(file, annotation.item_id, "", "a unique id", "an earlier item's"))
        else:
            kept.append(annotation)
        seen.add(name)
    lost = reading.lost + len(reading.annotations) - len(kept)
    return Reading(file, tuple(kept), (*reading.errors, *errors), lost, reading.duplicates, reading.unknown)
