"""The files of MiniSTVG: a split is rendered once into a folder, and checked before it is used again.

    ROOT/ministvg-VERSION/SPLIT/clips/SPLIT-00000.mp4 ...    H.264, in order of the clip's index
                                annotations.json             one object a clip
                                manifest.json                size and sha256 of all of the above

A clip depends on its split and index alone, so a split may grow: the clips that are there stay as they are.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import rich.console
import rich.progress

from datamodules.ministvg.annotations import SceneAnnotation, annotate, read_annotations, write_annotations
from datamodules.ministvg.render import render, write_clip
from datamodules.ministvg.scene import SPLITS, VERSION, clip_seed, generate_scene

_CLIPS = "clips"
_ANNOTATIONS = "annotations.json"
_MANIFEST = "manifest.json"
# Of a split that grows, until they take the places of the smaller one's: the manifest comes last of both.
_NEXT_ANNOTATIONS, _NEXT = "annotations.next.json", "manifest.next.json"


class DamagedSplitError(RuntimeError):
    """A rendered split is not what its manifest says. The message names the first bad file and the way out."""

    def __init__(self, path: Path, *, expected: str, got: str, folder: Path) -> None:
        super().__init__(f"expected {expected} in '{path}', got {got}; delete '{folder}' to have it rendered again")
        self.path = path


@dataclass(frozen=True, slots=True)
class _File:
    """Args: size, which is checked before a split is used; sum, by which two renderings can be compared."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Manifest:
    """Args: version of the generator, split, number of clips, rule of their seeds, files by their relative path."""

    version: str
    split: str
    num_clips: int
    seed: str
    files: dict[str, _File]


def ensure_split(root: Path, split: str, *, num_clips: int, progress: bool = True) -> Path:
    """The folder of a split that holds at least ``num_clips`` clips, rendered now where it does not yet.

    A folder that holds enough is reused after a check of its files; one that holds fewer gets the missing clips. New
    clips are rendered beside the split and moved in at the end, so a run that is killed leaves nothing that looks
    finished, at most a hidden folder to delete. One that is killed while it moves them in is finished by the next.
    Processes may render the same split at once; the largest number of clips stays.

    Args:
        root: folder of all versions and splits.
        split: one of ``SPLITS``.
        num_clips: how many clips are needed; a larger split is a superset with the same first clips, which
            ``load_annotations(path, num_clips=...)`` selects.
        progress: show a progress bar on the standard error stream.

    Raises:
        ValueError: an unknown split, or no clips asked for.
        DamagedSplitError: the split is there, but a file is missing or not the one that was rendered.
    """
    if split not in SPLITS or num_clips < 1:
        raise ValueError(f"expected a split of {SPLITS} and num_clips >= 1, got '{split}' and {num_clips}")
    folder = Path(root) / f"ministvg-{VERSION}" / split
    held = _check_files(folder) if folder.exists() else None
    first = 0 if held is None else held.num_clips
    if first >= num_clips:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{split}-", dir=folder.parent) as beside:
        draft = Path(beside) / split
        _render_draft(draft, split, range(first, num_clips), held, progress=progress)
        if held is not None:
            _move_in(draft, folder, num_clips)
        else:
            try:
                draft.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
                # Another process finished the same split meanwhile: its files are as good as ours.
                return ensure_split(root, split, num_clips=num_clips, progress=progress)
    return folder


def load_annotations(path: Path, *, num_clips: int | None = None) -> tuple[SceneAnnotation, ...]:
    """The annotations of a split's folder, in order of the clips' indices.

    Args:
        path: what :func:`ensure_split` returned.
        num_clips: the first so many of them; ``None`` for all that the folder holds.

    Raises:
        ValueError: the split holds fewer than ``num_clips``.
        DamagedSplitError: the folder holds no finished split, or not this version's.
    """
    path = Path(path)
    held = _read_manifest(path).num_clips
    if num_clips is not None and not 1 <= num_clips <= held:
        raise ValueError(f"num_clips must lie in [1, {held}] for '{path}', got {num_clips}; ensure_split renders more")
    return read_annotations(path / _ANNOTATIONS)[:num_clips]


def _clip_id(split: str, index: int) -> str:
    return f"{split}-{index:05d}"


def _clip_name(split: str, index: int) -> str:
    return f"{_CLIPS}/{_clip_id(split, index)}.mp4"


def _render_draft(draft: Path, split: str, indices: range, held: _Manifest | None, *, progress: bool) -> None:
    """Render the clips of ``indices``, and describe them together with the clips that are already ``held``."""
    (draft / _CLIPS).mkdir(parents=True)
    scenes = [generate_scene(clip_seed(split, index)) for index in range(indices.stop)]
    console = rich.console.Console(stderr=True)
    bar = rich.progress.track(indices, f"rendering MiniSTVG {split}", console=console, disable=not progress)
    for index in bar:
        write_clip(render(scenes[index]), draft / _clip_name(split, index))
    write_annotations(
        draft / _ANNOTATIONS,
        (annotate(scene, _clip_id(split, i), draft / _clip_name(split, i)) for i, scene in enumerate(scenes)),
    )
    files = {} if held is None else dict(held.files)
    for name in (*(_clip_name(split, index) for index in indices), _ANNOTATIONS):
        files[name] = _File((draft / name).stat().st_size, _sha256(draft / name))
    seed = f"derive_seed('ministvg', '{VERSION}', '{split}', index)"
    manifest = _Manifest(VERSION, split, indices.stop, seed, dict(sorted(files.items())))
    (draft / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="ascii")


def _move_in(draft: Path, folder: Path, num_clips: int) -> None:
    """Add the clips of a draft to a finished split; until its manifest is there as ``_NEXT`` the files are nobody's."""
    with _held_still(folder, alone=True):
        _finish_growth(folder)
        if _read_manifest(folder).num_clips >= num_clips:  # another process let it grow meanwhile
            return
        for clip in sorted((draft / _CLIPS).iterdir()):
            os.replace(clip, folder / _CLIPS / clip.name)
        os.replace(draft / _ANNOTATIONS, folder / _NEXT_ANNOTATIONS)
        os.replace(draft / _MANIFEST, folder / _NEXT)
        _finish_growth(folder)


@contextmanager
def _held_still(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Keeps other processes from moving clips into a split; waits while one does, and with ``alone`` for readers too.

    The folder itself is locked, for a split may lie where nothing can be written. Where there are no locks it goes on
    without.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _finish_growth(folder: Path) -> None:
    """Let a grown split take the place of the smaller one, where all of it has been moved in."""
    if not (folder / _NEXT).is_file():
        return
    for name, final in ((_NEXT_ANNOTATIONS, _ANNOTATIONS), (_NEXT, _MANIFEST)):
        with suppress(FileNotFoundError):  # taken already, by a process that was killed behind that, or is beside this
            os.replace(folder / name, folder / final)


def _read_manifest(folder: Path) -> _Manifest:
    path = folder / _MANIFEST
    if not path.is_file():
        raise DamagedSplitError(path, expected="the manifest of a finished split", got="no such file", folder=folder)
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        files = {name: _File(**file) for name, file in content.pop("files").items()}
        manifest = _Manifest(**content, files=files)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedSplitError(path, expected="a manifest", got=f"{error!r}", folder=folder) from error
    names = {_ANNOTATIONS, *(_clip_name(manifest.split, index) for index in range(manifest.num_clips))}
    if manifest.version != VERSION or manifest.files.keys() != names:
        raise DamagedSplitError(
            path,
            expected=f"version {VERSION} and {len(names)} files for {manifest.num_clips} clips",
            got=f"version {manifest.version} and {len(manifest.files)} files",
            folder=folder,
        )
    return manifest


def _check_files(folder: Path) -> _Manifest:
    with _held_still(folder):
        _finish_growth(folder)
        manifest = _read_manifest(folder)
        for name, file in manifest.files.items():
            path = folder / name
            got = f"{path.stat().st_size} bytes" if path.is_file() else "no such file"
            if got != f"{file.bytes} bytes":
                raise DamagedSplitError(path, expected=f"{file.bytes} bytes", got=got, folder=folder)
            if (found := _sha256(path)) != file.sha256:
                raise DamagedSplitError(path, expected=f"sha256 {file.sha256}", got=found, folder=folder)
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
