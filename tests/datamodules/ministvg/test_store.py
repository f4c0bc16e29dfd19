"""Files: finished or absent, never in between; damage is found and named; a split grows without changing."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from pathlib import Path

import pytest

from datamodules.ministvg import store
from datamodules.ministvg.scene import VERSION
from datamodules.ministvg.store import DamagedSplitError, ensure_split, load_annotations


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a split 'val' of three clips: not to be written to."""
    root = tmp_path_factory.mktemp("data")
    ensure_split(root, "val", num_clips=3, progress=False)
    return root


@pytest.fixture
def split(finished: Path, tmp_path: Path) -> Path:
    """The folder of an own copy of that split, under ``tmp_path``."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path / f"ministvg-{VERSION}" / "val"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_as_listed(folder: Path) -> None:
    """Every file has the size and the sum that the manifest says."""
    for name, file in json.loads((folder / "manifest.json").read_text())["files"].items():
        content = (folder / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name


def test_what_is_written(split: Path) -> None:
    clips = [f"clips/val-0000{index}.mp4" for index in range(3)]
    assert list(contents(split)) == ["annotations.json", *clips, "manifest.json"]
    manifest = json.loads((split / "manifest.json").read_text())
    assert (manifest["version"], manifest["split"], manifest["num_clips"]) == (VERSION, "val", 3)
    assert manifest["seed"] == f"derive_seed('ministvg', '{VERSION}', 'val', index)"
    assert_as_listed(split)
    annotations = load_annotations(split)
    assert [annotation.file for annotation in annotations] == [split / clip for clip in clips]
    assert all(annotation.file.is_file() for annotation in annotations)


def test_two_renderings_have_the_same_bytes(split: Path, tmp_path: Path) -> None:
    again = ensure_split(tmp_path / "again", "val", num_clips=3, progress=False)
    assert contents(again) == contents(split)


def test_finished_split_is_reused(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "render", lambda scene: pytest.fail("rendered again"))
    assert ensure_split(tmp_path, "val", num_clips=3) == split
    assert ensure_split(tmp_path, "val", num_clips=2) == split


def test_split_grows_without_changing(split: Path, tmp_path: Path) -> None:
    before = contents(split / "clips")
    assert ensure_split(tmp_path, "val", num_clips=5, progress=False) == split
    assert_as_listed(split)
    after = contents(split / "clips")
    assert {name: after[name] for name in before} == before
    assert len(load_annotations(split)) == len(after) == 5
    at_once = ensure_split(tmp_path / "at_once", "val", num_clips=5, progress=False)
    assert contents(at_once) == contents(split)


def test_first_clips_can_be_selected(split: Path) -> None:
    assert [a.clip_id for a in load_annotations(split, num_clips=2)] == ["val-00000", "val-00001"]
    with pytest.raises(ValueError, match=r"num_clips must lie in \[1, 3\] for '.*val', got 4"):
        load_annotations(split, num_clips=4)


@pytest.mark.parametrize("held", [0, 3])
def test_killed_rendering_leaves_nothing_that_looks_finished(held: int, split: Path, tmp_path: Path) -> None:
    if not held:
        shutil.rmtree(split)
    before = contents(split)

    def render_two_and_die() -> None:
        written: list[Path] = []
        write_clip = store.write_clip

        def write_or_die(frames, path) -> None:
            if len(written) == 2:
                os._exit(9)  # no handler and no clean-up runs, as under SIGKILL
            write_clip(frames, path)
            written.append(path)

        store.write_clip = write_or_die
        ensure_split(tmp_path, "val", num_clips=6, progress=False)

    process = multiprocessing.get_context("fork").Process(target=render_two_and_die)
    process.start()
    process.join(timeout=30)
    assert process.exitcode == 9
    assert contents(split) == before
    assert split.exists() == bool(held)
    assert_as_listed(ensure_split(tmp_path, "val", num_clips=6, progress=False))


@pytest.mark.parametrize("moved", range(6))
def test_a_growth_that_is_killed_while_it_moves_in_is_finished_or_begun_again(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """Of two new clips, annotations and a manifest, each is moved in, and the last two take their names."""
    replace, done = os.replace, []

    def replace_or_die(*places: Path) -> None:
        if len(done) == moved:
            raise KeyboardInterrupt
        done.append(places)
        replace(*places)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", replace_or_die)
        with pytest.raises(KeyboardInterrupt):
            ensure_split(tmp_path, "val", num_clips=5, progress=False)
    smaller = ensure_split(tmp_path, "val", num_clips=3, progress=False)
    assert len(load_annotations(smaller)) == (5 if moved > 3 else 3)
    assert_as_listed(ensure_split(tmp_path, "val", num_clips=5, progress=False))


def test_interrupted_rendering_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(frames, path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_clip", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ensure_split(tmp_path, "val", num_clips=2, progress=False)
    assert list((tmp_path / f"ministvg-{VERSION}").iterdir()) == []


def test_loser_of_a_race_takes_the_winners_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / f"ministvg-{VERSION}" / "val"
    write_annotations = store.write_annotations

    def be_overtaken(path, annotations) -> None:
        write_annotations(path, annotations)
        shutil.copytree(finished / f"ministvg-{VERSION}" / "val", folder)

    monkeypatch.setattr(store, "write_annotations", be_overtaken)
    assert ensure_split(tmp_path, "val", num_clips=3, progress=False) == folder
    assert [path.name for path in folder.parent.iterdir()] == ["val"]


@pytest.mark.parametrize("larger", [5, 6])
def test_a_growth_that_is_overtaken_takes_nothing_away(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, larger: int
) -> None:
    write_annotations = store.write_annotations

    def be_overtaken(path, annotations) -> None:
        write_annotations(path, annotations)
        monkeypatch.setattr(store, "write_annotations", write_annotations)
        ensure_split(tmp_path, "val", num_clips=larger, progress=False)

    monkeypatch.setattr(store, "write_annotations", be_overtaken)
    assert ensure_split(tmp_path, "val", num_clips=5, progress=False) == split
    assert len(load_annotations(split)) == larger
    assert_as_listed(split)
    assert [path.name for path in split.parent.iterdir()] == ["val"]


def test_a_split_grows_only_when_nobody_checks_it(split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_annotations, sha256, drafted = store.write_annotations, store._sha256, threading.Event()
    grower = threading.Thread(target=ensure_split, args=(tmp_path, "val"), kwargs={"num_clips": 4, "progress": False})

    def draft(path, annotations) -> None:
        write_annotations(path, annotations)
        drafted.set()

    def let_it_grow(path: Path) -> str:
        monkeypatch.setattr(store, "_sha256", sha256)
        grower.start()
        assert drafted.wait(60)
        grower.join(1)  # in which it would be done, if it did not wait
        return sha256(path)

    monkeypatch.setattr(store, "write_annotations", draft)
    monkeypatch.setattr(store, "_sha256", let_it_grow)
    assert ensure_split(tmp_path, "val", num_clips=3) == split
    grower.join(60)
    assert len(load_annotations(split)) == 4
    assert_as_listed(split)


def test_truncated_and_missing_files_are_found_at_once(split: Path, tmp_path: Path) -> None:
    clip = split / "clips" / "val-00002.mp4"
    size = clip.stat().st_size
    clip.write_bytes(clip.read_bytes()[:100])
    with pytest.raises(
        DamagedSplitError, match=rf"expected {size} bytes in '.*val-00002.mp4', got 100 bytes"
    ) as caught:
        ensure_split(tmp_path, "val", num_clips=3)
    assert caught.value.path == clip
    assert f"delete '{split}'" in str(caught.value)
    clip.unlink()
    with pytest.raises(DamagedSplitError, match=r"val-00002.mp4', got no such file"):
        ensure_split(tmp_path, "val", num_clips=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "0"}, "got version 0 and 4 files"),
        ({"num_clips": 4}, "5 files for 4 clips in '.*manifest.json', got version . and 4 files"),
        ({"files": {}}, "got version . and 0 files"),
        ({"files": None}, "expected a manifest in"),
        ({"surprise": 1}, "expected a manifest in .*surprise"),
    ],
)
def test_wrong_manifest_is_refused(change: dict, message: str, split: Path, tmp_path: Path) -> None:
    path = split / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DamagedSplitError, match=message):
        ensure_split(tmp_path, "val", num_clips=3)


def test_folder_without_a_manifest_is_no_split(tmp_path: Path) -> None:
    with pytest.raises(DamagedSplitError, match="the manifest of a finished split"):
        load_annotations(tmp_path)


@pytest.mark.parametrize(("split_name", "num_clips"), [("train", 3), ("val", 0)])
def test_impossible_split_is_refused(split_name: str, num_clips: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"got '{split_name}' and {num_clips}"):
        ensure_split(tmp_path, split_name, num_clips=num_clips)
