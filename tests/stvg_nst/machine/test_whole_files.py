from __future__ import annotations

import errno
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from stvg_nst.machine.whole_files import remove_partials, whole_file, write_whole


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    write_whole(path, b"first")
    write_whole(path, "second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_interrupted_write_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_whole(path, b"first")

    def interrupt(source: Path, target: Path) -> None:
        assert Path(source).parent == path.parent, "a rename is atomic only within a file system"
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    mine = [tmp_path / "clips" / name for name in ("a.mkv", "b.partial", ".hidden.partial")]
    with whole_file(tmp_path / "clips" / "c.mkv") as partial:
        for path in (*mine, partial):
            path.touch()
        remove_partials(tmp_path)
        assert not partial.exists() and all(path.exists() for path in mine)
        partial.touch()


@pytest.mark.usefixtures("umask")
def test_a_writer_of_private_files_makes_a_file_as_others_are(tmp_path: Path) -> None:
    with whole_file(tmp_path / "adapter") as partial:
        partial.unlink()
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "plain").touch()
    assert mode(tmp_path / "adapter") == mode(tmp_path / "plain") == 0o640


@pytest.mark.usefixtures("umask")
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.touch()
    path.chmod(0o664)
    write_whole(path, "new")
    assert mode(path) == 0o664


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target = tmp_path / "latest.json", tmp_path / "there" / "results.json"
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert [*target.parent.iterdir()] == [target]


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_whole(Path(os.devnull), "gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(OSError, match="No space left on device"):
        write_whole(Path("/dev/full"), "no room")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_name_that_only_just_fits_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("x" * 255), "long")


def test_a_full_disk_is_reported_of_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_whole(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_whole(path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_a_name_that_is_no_utf_8_does_not_stop_a_text(tmp_path: Path) -> None:
    write_whole(tmp_path / "report.md", "runs/" + os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == "runs/caf\\udce9"
