"""Where own clips lie, and which of them are trained on."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from datamodules.annotated import AnnotatedSource, AnnotationError, Reading
from datamodules.annotated.manifest import VideoEntry, manifest_file, read_manifest
from datamodules.annotated.source import OfficialSplit
from datamodules.footage import Footage
from datamodules.own_clips.format import Line, Lines, parse_line, read_lines
from stvg_nst.seeding import derive_seed

SPLITS: tuple[OfficialSplit, ...] = ("train", "val", "test")
# Shares of the videos, where the annotations do not say which split a video is in.
_TEST_SHARE, _VAL_SHARE = 0.2, 0.1


class OwnClipsSource(AnnotatedSource):
    """Anyone's clips.

    Args:
        root: holds ``annotations.jsonl`` (:mod:`datamodules.own_clips.format`) and, at any depth, the videos.
    """

    name = "own_clips"
    official_counts: Mapping[OfficialSplit, tuple[int, int]] = {}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lines: Lines | None = None

    @property
    def splits(self) -> tuple[OfficialSplit, ...]:
        return SPLITS

    def videos_to_know(self) -> tuple[str, ...]:
        try:
            return tuple(dict.fromkeys(line.video for line in self._all_lines().lines))
        except (FileNotFoundError, AnnotationError):  # whoever reads the annotations will say so
            return ()

    def learn(self, videos: Mapping[str, VideoEntry]) -> None:
        super().learn(videos)
        self._readings.clear()

    def lines_of(self, split: OfficialSplit) -> tuple[Line, ...]:
        """The lines about a split's videos, told without a look at the videos.

        Raises:
            FileNotFoundError, AnnotationError: there is no such file, or it holds no lines.
        """
        lines = self._all_lines().lines
        splits, _ = split_videos(lines)
        return tuple(line for line in lines if splits.get(line.video) == split)

    def video_file(self, name: str) -> Path:
        path = self.root / name
        return path if path.is_file() else super().video_file(name)

    def _annotation_files(self, split: OfficialSplit) -> Sequence[Path]:
        return (self.root / "annotations.jsonl",)

    def _read(self, file: Path, split: OfficialSplit) -> Reading:
        """The lines about the split's videos. A line that cannot be read counts as one of the training split."""
        read = self._all_lines()
        splits, contradictions = split_videos(read.lines)
        annotations, errors = [], [*read.errors, *contradictions] if split == "train" else []
        films: dict[str, Footage | str] = {}
        for line in read.lines:
            if splits.get(line.video) != split:
                continue
            if line.video not in films:
                films[line.video] = self._film(line.video)
            film = films[line.video]
            try:
                if isinstance(film, str):
                    raise line.fields.error("video", "a video that can be read", f"'{line.video}', which is {film}")
                annotation = parse_line(line, film)
                # A run may use the clips of 'val' without measuring: they set the threshold of a gate.
                if split == "test" and not annotation.has_tube:
                    expected = "a tube, for what is found in a clip of the split 'test' is measured by it"
                    raise line.fields.error("start", expected, "a line without start, stop and boxes")
                annotations.append(annotation)
            except AnnotationError as error:
                errors.append(error)
        is_train = split == "train"
        return Reading(
            file,
            tuple(annotations),
            tuple(errors),
            len(errors),
            read.duplicates if is_train else (),
            read.unknown if is_train else Counter(),
        )

    def _all_lines(self) -> Lines:
        if self._lines is None:
            self._lines = read_lines(self.annotation_file("train"))
        return self._lines

    def _film(self, video: str) -> Footage | str:
        """A video as the manifest has it, or what is wrong with it.

        Raises:
            FileNotFoundError: there is no manifest.
        """
        again = f"run `python -m stvg_nst data verify {self.name} {self.root}` again"
        entry = self._manifest().get(video)
        if entry is None:
            return f"not in the manifest; {again}"
        if not entry.is_of(self.video_file(video)):
            return f"another file than when it was verified; {again}"
        if entry.times is None or entry.fps is None or entry.size is None:
            return entry.verdict
        return Footage(video, entry.times, entry.fps, entry.size)

    def _manifest(self) -> Mapping[str, VideoEntry]:
        if not self._known_videos:
            manifest = manifest_file(self.root, self.name)
            if not manifest.is_file():
                raise FileNotFoundError(
                    f"the length of the videos must be known, but there is no '{manifest}': run "
                    f"`python -m stvg_nst data verify {self.name} {self.root}`"
                )
            self._known_videos = read_manifest(manifest, self.name)
        return self._known_videos

    def _video_folders(self) -> Sequence[Path]:
        return (self.root,)

    def _video_key(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


def split_videos(lines: Sequence[Line]) -> tuple[dict[str, OfficialSplit], list[AnnotationError]]:
    """The split of each video, and the errors of lines that leave it open.

    Either every line says the split of its video, or a hash of the videos' names does: a fifth of them is for the test
    and a tenth for validation, at least one each. A video that has a line without a tube can measure nothing: it is
    for training, or, where no other is left, for validation.
    """
    if not any(line.split for line in lines):
        videos = {line.video for line in lines}
        if 0 < len(videos) < len(SPLITS):
            expected = "at least three videos, to train, to choose and to test on, or a 'split' in every line"
            got = f"{len(videos)} videos and no 'split'"
            return {}, [AnnotationError(lines[0].fields.file, "", "", expected, got)]
        return _split_by_name(videos, {line.video for line in lines if not line.has_tube}), []
    splits: dict[str, OfficialSplit] = {}
    errors = []
    for line in lines:
        if line.split is None:
            errors.append(line.fields.error("split", "this field, as other lines have it", "a line without it"))
        elif splits.setdefault(line.video, line.split) != line.split:
            before = f"'{splits[line.video]}', as another line about '{line.video}' says"
            errors.append(line.fields.error("split", before, f"'{line.split}'"))
    return splits, errors


def _split_by_name(videos: Iterable[str], without_tube: Container[str]) -> dict[str, OfficialSplit]:
    """
    Args:
        videos: at least three.
        without_tube: those of them that have a line without a tube.
    """
    draws = {video: derive_seed("own clips", unicodedata.normalize("NFC", video)) / 2**63 for video in videos}
    in_order = sorted(draws, key=lambda video: draws[video])
    measuring = [video for video in in_order if video not in without_tube]

    def drawn_below(share: float, videos: Sequence[str]) -> int:
        return sum(draws[video] < share for video in videos)

    # Of a few videos the draws may be alike: each split gets one all the same.
    num_test = min(max(1, drawn_below(_TEST_SHARE, measuring)), len(measuring), len(draws) - 2)
    if left := measuring[num_test:]:
        num_val = drawn_below(_TEST_SHARE + _VAL_SHARE, measuring) - num_test
    else:
        left = [video for video in in_order if video in without_tube]
        num_val = drawn_below(_VAL_SHARE, left)
    num_val = min(max(1, num_val), len(draws) - num_test - 1)
    test, val = set(measuring[:num_test]), set(left[:num_val])
    splits: dict[str, OfficialSplit] = {}
    for video in draws:
        splits[video] = "test" if video in test else "val" if video in val else "train"
    return splits
