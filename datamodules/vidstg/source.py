"""Where VidSTG's files lie, and VidOR's, which have its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datamodules.annotated import AnnotatedSource, Annotation, AnnotationError, Convention, Reading
from datamodules.annotated.fields import read_json
from datamodules.annotated.source import NamedFiles, OfficialSplit, files_below
from datamodules.vidstg.format import Trajectories, read_merged, read_sentences, with_trajectory


class VidSTGSource(AnnotatedSource):
    """VidSTG.

    Args:
        root: holds ``videos`` (or ``video``) with VidOR's files, and either ``sent_annos`` (the official sentences)
            with ``bbox_annos`` (VidOR's annotation of each video), or ``vstg_annos`` (both merged). The former is
            preferred where both are there.
        convention: of segments and sentences, see :func:`datamodules.vidstg.format.read_sentences`.
    """

    name = "vidstg"
    official_counts: Mapping[OfficialSplit, tuple[int, int]] = {
        "train": (36202, 44482),
        "val": (3996, 4960),
        "test": (4610, 5693),
    }

    def __init__(self, root: Path, convention: Convention = "annotated") -> None:
        super().__init__(root)
        self._convention = convention
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
            files = files_below(self.root / "bbox_annos")
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

    def _read(self, file: Path, split: OfficialSplit) -> Reading:
        read = read_merged if file.parent.name == "vstg_annos" else read_sentences
        return read(file, self._convention)

    def _video_folders(self) -> Sequence[Path]:
        return self.root / "videos", self.root / "video"

    def _video_key(self, path: Path) -> str:
        return path.stem

    def _video_name(self, name: str) -> str:
        return f"{name}.mp4"
