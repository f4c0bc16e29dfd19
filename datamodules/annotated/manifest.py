"""The manifest of a data set's videos: what each file is, and whether it can be used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from datamodules.annotated.fields import Fields, read_json, shown
from stvg_nst.machine.whole_files import write_whole

SOUND = "sound"
TOO_SHORT = "too short"
_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class VideoEntry:
    """One video file as it was found; what could not be found out is ``None``.

    Args:
        path: relative to the data set's folder.
        num_bytes, mtime_ns: size and time of change of the file.
        sha256: of its bytes.
        num_frames, fps, size: of its stream, the size as (H, W).
        times: of its frames, in seconds after the first; only for data sets that annotate in seconds.
        pixel_aspect: width and height of a pixel; ``None`` where they are alike, or in an older manifest.
        verdict: ``sound``, or what is wrong; it begins with ``too short`` where that is a lack of frames alone.
    """

    path: str
    num_bytes: int | None = None
    mtime_ns: int | None = None
    sha256: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    size: tuple[int, int] | None = None
    times: tuple[float, ...] | None = None
    pixel_aspect: tuple[int, int] | None = None
    verdict: str = SOUND

    @property
    def is_short(self) -> bool:
        """Whether the only fault is that frames are missing."""
        return self.verdict.startswith(TOO_SHORT)

    def is_of(self, file: Path) -> bool:
        """Whether the file is still the one that the entry describes, or still missing."""
        if not file.is_file():
            return self.num_bytes is None
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.num_bytes, self.mtime_ns)


def manifest_file(root: Path, name: str) -> Path:
    """The default place of a data set's manifest."""
    return root / f"{name}.manifest.json"


def write_manifest(file: Path, name: str, videos: Mapping[str, VideoEntry]) -> None:
    """Writes the manifest whole or not at all."""
    entries = {video: asdict(videos[video]) for video in sorted(videos)}
    for entry in entries.values():
        for unknown in [field for field in ("times", "pixel_aspect") if entry[field] is None]:
            del entry[unknown]
    content = {"schema": _SCHEMA, "dataset": name, "videos": entries}
    write_whole(file, json.dumps(content, indent=1) + "\n")


def read_manifest(file: Path, name: str) -> dict[str, VideoEntry]:
    """The entries by the names of the videos.

    Raises:
        FileNotFoundError: there is no manifest.
        AnnotationError: it is damaged, or of another data set or version.
    """
    fields = Fields.of(file, "", read_json(file).value)
    fields.integer("schema", at_least=_SCHEMA, at_most=_SCHEMA)
    if fields.text("dataset") != name:
        raise fields.error("dataset", f"'{name}'", shown(fields.text("dataset")))
    videos = fields.fields("videos")
    return {video: _entry(Fields.of(file, video, value)) for video, value in videos.values.items()}


def frames_in_files(videos: Mapping[str, VideoEntry]) -> dict[str, int]:
    """How many frames the videos have that could be read."""
    return {video: entry.num_frames for video, entry in videos.items() if entry.num_frames is not None}


def _entry(fields: Fields) -> VideoEntry:
    def given(name: str) -> bool:
        return fields.values.get(name) is not None

    def pair(name: str, what: str) -> tuple[int, int] | None:
        if not given(name):
            return None
        sides = fields.sequence(name)
        if len(sides) != 2 or not all(type(side) is int for side in sides):
            raise fields.error(name, what, shown(sides))
        return sides[0], sides[1]

    times = None
    if given("times"):
        listed = fields.sequence("times")
        if not all(type(time) in (int, float) for time in listed):
            raise fields.error("times", "a list of seconds", shown(listed))
        times = tuple(map(float, listed))
    return VideoEntry(
        path=fields.string("path"),
        num_bytes=fields.integer("num_bytes", at_most=2**63) if given("num_bytes") else None,
        mtime_ns=fields.integer("mtime_ns", at_least=-(2**63), at_most=2**63) if given("mtime_ns") else None,
        sha256=fields.text("sha256") if given("sha256") else None,
        num_frames=fields.integer("num_frames") if given("num_frames") else None,
        fps=fields.positive("fps") if given("fps") else None,
        size=pair("size", "[height, width]"),
        times=times,
        pixel_aspect=pair("pixel_aspect", "[width, height]"),
        verdict=fields.string("verdict"),
    )
