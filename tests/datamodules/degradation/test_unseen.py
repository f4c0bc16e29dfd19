from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from datamodules.degradation.kinds import DEGRADATIONS, SEVERITIES, UNSEEN, version_name
from datamodules.degradation.severities import degrade
from datamodules.degradation.unseen import add_noise, compress, damaged_part, degrade_clip, part_degradation
from datamodules.degradation.video import degrade_video
from datamodules.pixels import PixelSource
from datamodules.records import Record
from datamodules.video import VideoDecodeError, read_frames, write_video
from stvg_nst.types import Degradation, Tube
from tests.datamodules.degradation.test_severities import scene

ALL = [(kind, severity) for kind in UNSEEN for severity in SEVERITIES]


def damage(frames: np.ndarray, degradation: Degradation, wanted: Sequence[int] | None = None) -> np.ndarray:
    chosen = range(len(frames)) if wanted is None else wanted
    return np.stack([*degrade_clip(frames, len(frames), degradation, chosen)])


def change(frames: np.ndarray, degradation: Degradation) -> float:
    return float(np.abs(damage(frames, degradation) - frames.astype(float)).mean())


@pytest.mark.parametrize(("kind", "severity"), ALL)
def test_is_a_pure_function_and_a_frame_is_the_same_however_many_are_wanted(kind: str, severity: int) -> None:
    frames, draw = scene(num_frames=9), Degradation(kind, severity, 2**63 - 1)
    before, state = frames.copy(), np.random.get_state()[1].copy()
    whole = damage(frames, draw)
    assert whole.dtype == np.uint8 and whole.shape == frames.shape and (whole != frames).any()
    for chosen in ([2], [0, 8], [1, 4, 5]):
        np.testing.assert_array_equal(damage(frames, draw, chosen), whole[chosen])
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("kind", UNSEEN)
@pytest.mark.parametrize("size", [(128, 128), (240, 360)])
def test_severities_are_graded_whatever_is_drawn(kind: str, size: tuple[int, int]) -> None:
    frames = scene(*size, num_frames=4)
    for seed in range(4):
        steps = [change(frames, Degradation(kind, severity, seed)) for severity in SEVERITIES]
        assert steps[0] > 0.35, "severity 1 must be visible; partial damages every second frame"
        assert all(b > 1.05 * a for a, b in pairwise(steps)), steps


@pytest.mark.parametrize("kind", UNSEEN)
def test_the_object_still_stands_out_at_the_highest_severity(kind: str) -> None:
    for seed in range(4):
        for frame in damage(scene(num_frames=4), Degradation(kind, 5, seed)).astype(int):
            assert frame[45:57, 110:120].mean() > frame[20:40, 10:60].mean() + 15


@pytest.mark.parametrize("size", [(16, 16), (31, 77), (90, 41)])
@pytest.mark.parametrize("kind", UNSEEN)
def test_small_and_odd_frames_are_damaged_too(kind: str, size: tuple[int, int]) -> None:
    frames = scene(*size, num_frames=2)
    assert damage(frames, Degradation(kind, 5, 3)).shape == frames.shape


def test_a_codec_hands_out_as_many_frames_as_it_is_given_and_in_order() -> None:
    grey = np.linspace(40, 210, 60).astype(np.uint8)
    frames = np.broadcast_to(grey[:, None, None, None], (60, 32, 48, 3))
    coded = np.stack([*compress(frames, 30)]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(coded, grey, atol=6)
    assert not [*compress([], 30)]


def test_a_codec_loses_what_moves_and_no_colour_of_what_does_not() -> None:
    still = np.full((6, 32, 32, 3), (200, 80, 40), np.uint8)
    np.testing.assert_allclose(np.stack([*compress(still, 50)]).astype(int), still, atol=8)


def test_noise_has_the_strength_of_its_severity_and_is_new_in_every_frame_and_clip() -> None:
    frame = np.full((128, 200, 3), 128, np.uint8)
    for severity, strength in zip(SEVERITIES, (10, 18, 28, 40, 56), strict=True):
        noise = add_noise(frame, Degradation("noise", severity, 0), 0).astype(float) - 128
        assert noise.mean() == pytest.approx(0, abs=1.0) and noise.std() == pytest.approx(strength, rel=0.08)
    drawn = {add_noise(frame, Degradation("noise", 3, seed), index).tobytes() for seed in (0, 1) for index in (0, 1)}
    assert len(drawn) == 4


@pytest.mark.parametrize(
    ("height", "kernels", "grain"), [(128, "relative", 1), (512, "relative", 4), (128, "absolute", 3)]
)
def test_a_grain_is_as_large_as_the_frame_asks_for(height: int, kernels: str, grain: int) -> None:
    noise = add_noise(np.full((height, 600, 3), 128, np.uint8), Degradation("noise", 3, 0, kernels), 0)  # type: ignore[arg-type]
    rows = noise[: height // grain * grain].reshape(-1, grain, 600, 3)
    assert (rows == rows[:, :1]).all() and (rows[1:, 0] != rows[:-1, 0]).mean() > 0.9


def test_half_of_the_frames_are_damaged_one_after_another_as_d_1_0_would() -> None:
    frames = scene(num_frames=8)
    starts, kinds = set(), set()
    for seed in range(40):
        degradation = Degradation("partial", 4, seed)
        part, kind = damaged_part(8, seed), part_degradation(degradation)
        starts.add(part.start)
        kinds.add(kind.kind)
        assert len(part) == 4 and part.start >= 0 and part.stop <= 8
        assert (kind.severity, kind.seed) == (4, seed)
    assert starts == set(range(5)) and kinds == set(DEGRADATIONS)
    shown = damage(frames, degradation)
    inside = [index in part for index in range(8)]
    np.testing.assert_array_equal(shown[inside], degrade(frames, kind)[inside])
    np.testing.assert_array_equal(shown[np.logical_not(inside)], frames[np.logical_not(inside)])
    assert damaged_part(1, 0) == range(1)


def test_refuses_what_is_not_its_own() -> None:
    for kind in ("defocus", "fog"):
        with pytest.raises(ValueError, match=f"kind must be one of compression, noise, partial, got '{kind}'"):
            damage(scene(num_frames=1), Degradation(kind, 1, 0))
    with pytest.raises(ValueError, match="1, 2, 3, 4, 5, got 6"):
        damage(scene(num_frames=1), Degradation("noise", 6, 0))
    with pytest.raises(
        ValueError, match="kind must be one of motion_blur, defocus, low_light, resolution, got 'noise'"
    ):
        degrade(scene(num_frames=1), Degradation("noise", 1, 0))


def test_the_version_is_named_by_its_kernels() -> None:
    assert [version_name(kernels, unseen=True) for kernels in ("relative", "absolute")] == ["D-1.1", "D-1.1-absolute"]


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """A clip that begins within its video."""
    write_video(tmp_path / "video.mkv", scene(64, 96, num_frames=20), 10, crf=None)
    target = Tube(6, 8, np.zeros((2, 4)))  # type: ignore[arg-type]
    return Record("i", "c", tmp_path / "video.mkv", "q", "declarative", target, (5, 17), 20, 10.0, (64, 96))


@pytest.mark.parametrize("kind", UNSEEN)
def test_a_clip_is_damaged_from_its_first_frame_whichever_are_shown(record: Record, kind: str) -> None:
    degradation = Degradation(kind, 3, 1)
    whole = damage(read_frames(record.video, range(5, 17)), degradation)
    for shown in ((5, 9, 16), (7,)):
        expected = whole[[frame_id - 5 for frame_id in shown]]
        np.testing.assert_array_equal(PixelSource().read(record, shown, degradation), expected)


def test_a_video_of_another_size_is_refused(record: Record) -> None:
    record = replace(record, size=(48, 96))
    with pytest.raises(VideoDecodeError, match=r"frames are \(64, 96\) .* were made for \(48, 96\); use the original"):
        PixelSource().read(record, (5,), Degradation("compression", 1, 0))


@pytest.mark.parametrize("kind", UNSEEN)
def test_can_be_looked_at_as_a_video(record: Record, kind: str) -> None:
    target = record.video.with_name("target.mp4")
    degrade_video(record.video, target, kind=kind, severity=1, seed=9)  # type: ignore[arg-type]
    expected = damage(read_frames(record.video, range(20)), Degradation(kind, 1, 9))
    # The file halves the resolution of colours, and so loses what noise they have.
    written, wanted = (
        np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]).astype(int)
        for frames in (read_frames(target, range(20)), expected)
    )
    assert np.abs(written - wanted).mean() < 3.5
