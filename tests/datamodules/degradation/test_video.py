from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.degradation.severities import degrade
from datamodules.degradation.video import degrade_video
from datamodules.film import Film
from datamodules.playable import write_playable
from datamodules.video import VideoDecodeError, probe, read_frames, timeline, write_video
from stvg_nst.types import Degradation


@pytest.fixture
def source(tmp_path: Path) -> Path:
    y, x = np.mgrid[:64, :112]
    waves = [np.stack([128 + 80 * np.sin((x + 2 * t) / 7), 2 * y + 40, 200 - x], axis=2) for t in range(37)]
    write_video(tmp_path / "source.mp4", [wave.astype(np.uint8) for wave in waves], 12.5)
    return tmp_path / "source.mp4"


@pytest.mark.parametrize("kind", ["motion_blur", "low_light"])
def test_equals_the_benchmark_s_degradation_of_all_frames_at_once(source: Path, kind: str) -> None:
    target = source.with_name("target.mp4")
    degrade_video(source, target, kind=kind, severity=4, seed=9)
    info = probe(target)
    assert (info.num_frames, info.fps, info.size) == (37, 12.5, (64, 112))
    expected = degrade(read_frames(source, range(37)), Degradation(kind, 4, 9))
    # Encoding costs a few grey levels; another angle or another severity costs more.
    assert np.abs(read_frames(target, range(37)).astype(int) - expected).mean() < 2.5


def test_keeps_an_existing_target_unless_told(source: Path) -> None:
    target = source.with_name("target.mp4")
    target.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"target\.mp4"):
        degrade_video(source, target, kind="defocus", severity=1)
    assert target.read_bytes() == b"precious"
    degrade_video(source, target, kind="defocus", severity=1, overwrite=True)
    assert probe(target).num_frames == 37


def test_refuses_to_write_over_its_source(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(ValueError, match="is an input of this command"):
        degrade_video(source, source, kind="defocus", severity=1, overwrite=True)
    assert source.read_bytes() == before


def test_refuses_nonsense_before_it_writes(source: Path) -> None:
    target = source.with_name("target.mp4")
    # Before it reads, too: else the missing file were the error.
    with pytest.raises(ValueError, match="got 'fog'"):
        degrade_video(source.with_name("gone.mp4"), target, kind="fog", severity=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 9"):
        degrade_video(source, target, kind="defocus", severity=9)
    with pytest.raises(ValueError, match=r"target\.avi"):
        degrade_video(source, target.with_suffix(".avi"), kind="defocus", severity=1)
    with pytest.raises(VideoDecodeError, match="no such file"):
        degrade_video(source.with_name("gone.mp4"), target, kind="defocus", severity=1)
    assert sorted(path.name for path in source.parent.iterdir()) == ["source.mp4"]


def test_a_copy_has_the_times_and_the_pixels_of_its_source(source: Path) -> None:
    times = (0.0, 0.1, 0.5, 0.6, 1.3)
    frames, target = read_frames(source, range(5)), source.with_name("target.mp4")
    write_playable(source, frames, times, fps=4, pixel_aspect=Fraction(4, 3))
    degrade_video(source, target, kind="defocus", severity=1)
    assert timeline(target).times == pytest.approx(times, abs=1e-4)
    assert probe(target).pixel_aspect == Fraction(4, 3)


def test_odd_sides_get_one_more_row_or_column(tmp_path: Path) -> None:
    frames = np.full((3, 33, 47, 3), 128, np.uint8)
    write_video(tmp_path / "odd.mkv", frames, 10, crf=None)
    degrade_video(tmp_path / "odd.mkv", tmp_path / "target.mp4", kind="compression", severity=1)
    assert probe(tmp_path / "target.mp4").size == (34, 48)


def test_one_decoded_frame_is_in_memory_at_a_time(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, ahead = 0, []
    rgb = Film.rgb

    def counted(film: Film, frame: Any) -> np.ndarray:
        nonlocal decoded
        decoded += 1
        return rgb(film, frame)

    def take(path: Path, frames: Iterator[np.ndarray], *arguments: Any, **options: Any) -> None:
        nonlocal decoded
        decoded = 0
        ahead.extend(decoded - number for number, _ in enumerate(frames, start=1))

    monkeypatch.setattr(Film, "rgb", counted)
    monkeypatch.setattr("datamodules.degradation.video.write_playable", take)
    degrade_video(source, source.with_name("target.mp4"), kind="low_light", severity=1)
    assert ahead == [0] * 37


def test_a_name_in_brackets_is_shown_as_it_is(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = source.rename(source.with_name("my film [v1].mp4"))
    degrade_video(film, film.with_name("target.mp4"), kind="low_light", severity=1)
    assert "degrading my film [v1].mp4" in capsys.readouterr().out
