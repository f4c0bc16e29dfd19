from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.matroska import missing_bytes
from tests.datamodules.films import encode, numbered_frames


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_counts_what_a_cut_took(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, numbered_frames(5), codec="libvpx")
    content = path.read_bytes()
    assert missing_bytes(path) == 0
    for cut in (1, 60, len(content) // 2):
        path.write_bytes(content[:-cut])
        assert missing_bytes(path) == cut
    path.write_bytes(content + b"more")
    assert missing_bytes(path) == 0


def test_a_live_recording_and_other_files_announce_nothing(tmp_path: Path) -> None:
    live = encode(tmp_path / "a.webm", numbered_frames(5), codec="libvpx", container_options={"live": "1"})
    live.write_bytes(live.read_bytes()[:-10])
    assert missing_bytes(live) == 0
    assert missing_bytes(encode(tmp_path / "a.mp4", numbered_frames(5))) == 0
    for content in (b"", b"\x1a\x45\xdf\xa3", b"\x1a\x45\xdf\xa3\x01", b"\x1a\x45\xdf\xa3\x00" + bytes(90), b"text"):
        (tmp_path / "b").write_bytes(content)
        assert missing_bytes(tmp_path / "b") == 0
