"""Where a data set's files lie: annotation file -> annotations with boxes, video name -> video file."""

from __future__ import annotations

import os
import unicodedata
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from datamodules.annotated.annotation import Annotation, Reading
from datamodules.annotated.fields import AnnotationError
from datamodules.annotated.manifest import VideoEntry
from stvg_nst.counting import counted
from stvg_nst.results.conditions import SYNTHETIC
from stvg_nst.seeding import derive_seed
from stvg_nst.types import SENTENCE_TYPES, SentenceType

OfficialSplit = Literal["train", "val", "test"]

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".webm", ".mov")


class AnnotatedSource(ABC):
    """The files of a data set below one folder.

    Args:
        root: that folder.

    Attributes:
        name: of the data set.
        official_counts: declarative and interrogative sentences of each published split.
    """

    name: str
    official_counts: Mapping[OfficialSplit, tuple[int, int]]

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._readings: dict[OfficialSplit, Reading] = {}
        self._videos: NamedFiles | None = None
        self._known_videos: Mapping[str, VideoEntry] = {}

    @property
    def is_synthetic(self) -> bool:
        """Whether the files were made up by ``data synthetic``."""
        return (self.root / SYNTHETIC).is_file()

    @property
    def splits(self) -> tuple[OfficialSplit, ...]:
        """The splits that have their answers."""
        return tuple(self.official_counts)

    def annotation_file(self, split: OfficialSplit) -> Path:
        """The first of the split's annotation files that is there, or the one to fetch.

        Raises:
            ValueError: the data set has no such split.
        """
        if split not in self.splits:
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
            self._readings[split] = _with_unique_items(self._read(self.annotation_file(split), split))
        return self._readings[split]

    def count_mismatch(self, split: OfficialSplit) -> str:
        """How the numbers of sentences differ from the published ones, empty where they do not."""
        if split not in self.official_counts:
            return ""
        reading, expected = self.read(split), self.official_counts[split]
        got = sentence_counts(reading.annotations)
        if sum(got) + reading.lost == sum(expected) and (reading.lost > 0 or got == expected):
            return ""
        return f"has {_counted(got, reading.lost)}, the published {split} split {_counted(expected)}"

    def videos_to_know(self) -> tuple[str, ...]:
        """Videos whose lengths and sizes the annotations leave to the files, so that :meth:`learn` comes first."""
        return ()

    def learn(self, videos: Mapping[str, VideoEntry]) -> None:
        """Takes note of what is known of videos, as a data set with :meth:`videos_to_know` needs it."""
        self._known_videos = videos

    def video_file(self, name: str) -> Path:
        """The file of a video, wherever it lies below the video folders; where there is none, where it should be."""
        if self._videos is None:
            videos = (path for folder in self._video_folders() for path in files_below(folder))
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
        """The film that a video was cut from. No two splits that we make share a film."""
        return video

    def is_held_out(self, annotation: Annotation, share: float) -> bool:
        """Whether an annotation of the training split is for validation: a function of its film's name alone."""
        return derive_seed("held-out", self.name, self.film(annotation.video)) / 2**63 < share

    @abstractmethod
    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        """In the order of preference."""

    @abstractmethod
    def _read(self, file: Path, split: OfficialSplit) -> Reading: ...

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


def sentence_counts(annotations: Sequence[Annotation]) -> tuple[int, int]:
    """Declarative and interrogative sentences."""
    counts: Counter[SentenceType] = Counter(annotation.sentence_type for annotation in annotations)
    declarative, interrogative = (counts[sentence_type] for sentence_type in SENTENCE_TYPES)
    return declarative, interrogative


def files_below(folder: Path) -> list[Path]:
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
    return f"{counted(sum(counts) + faulty, 'sentence')} ({', '.join(parts)})"


def _with_unique_items(reading: Reading) -> Reading:
    """Takes out annotations whose item id an earlier one has, as errors; repeated keys are errors as well."""
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
