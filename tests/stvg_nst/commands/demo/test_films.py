from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from datamodules.footage import open_footage
from datamodules.video import VideoDecodeError, write_video
from stvg_nst.commands.demo import films
from stvg_nst.commands.demo.films import PREVIEW_HEIGHT, admit_upload, preview


@pytest.fixture
def uploads(tmp_path: Path) -> Path:
    folder = tmp_path / "uploads"
    folder.mkdir()
    return folder


def film(path: Path, *, num_frames: int = 8) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 48, 3), dtype=np.uint8)
    write_video(path, frames, 8.0)
    return path


def test_a_film_is_told_by_its_content_and_not_by_its_name(uploads: Path) -> None:
    (uploads / "text.mp4").write_text("no film")
    with pytest.raises(VideoDecodeError):
        admit_upload(uploads / "text.mp4", uploads)
    real = film(uploads / "a.mp4").rename(uploads / "holiday.txt")
    assert admit_upload(real, uploads).file == real


def test_nothing_outside_of_the_uploads_is_opened(uploads: Path, tmp_path: Path) -> None:
    outside = film(tmp_path / "private.mp4")
    (uploads / "link.mp4").symlink_to(outside)
    for path in (outside, uploads / ".." / "private.mp4", uploads / "link.mp4", uploads / "absent.mp4", uploads):
        with pytest.raises(ValueError, match="only a film that was uploaded here"):
            admit_upload(path, uploads)


@pytest.mark.parametrize(
    ("limit", "value", "words"),
    [
        ("LONGEST_SECONDS", 0.5, r"at most 0\.5 s, got 1 s"),
        ("LARGEST_MB", 0.001, r"at most 0\.001 MB, got"),
        ("LARGEST_SIDE", 40, "at most 40 pixels a side, got 48 x 32"),
    ],
)
def test_an_upload_has_limits(
    uploads: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, words: str
) -> None:
    upload = film(uploads / "a.mp4")
    admit_upload(upload, uploads)
    monkeypatch.setattr(films, limit, value)
    with pytest.raises(ValueError, match=words):
        admit_upload(upload, uploads)


def test_a_preview_shows_the_frame_and_what_is_left_of_it(uploads: Path) -> None:
    footage = open_footage(film(uploads / "a.mp4"))
    clean, dark = preview(footage, None, 3), preview(footage, "low_light", 5)
    assert clean.shape == (PREVIEW_HEIGHT, 48 * 8, 3)
    np.testing.assert_array_equal(dark[:, : 48 * 8], clean)
    assert dark[:, -48 * 8 :].mean() < clean.mean() / 2
