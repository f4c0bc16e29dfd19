from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from datamodules.caches import array_store
from datamodules.caches.array_store import CacheError
from datamodules.caches.features import ClipVersion, FeatureCache, FeatureWriter, feature_key
from datamodules.caches.frames import FramesOfClip
from datamodules.degradation.golden_pixels import PixelOrigin
from stvg_nst.types import Degradation

PROVENANCE = {"dataset": "toy", "clips": 2, "sizes": (1, 2)}
ORIGIN = PixelOrigin("on the fly", {"blur": "0f"})
VIDEO = FramesOfClip("clip", Path("nowhere.mp4"), (0, 4, 8), (9, 16))


def add(writer: FeatureWriter, key: str, appearance: torch.Tensor, motion: torch.Tensor) -> None:
    writer.add_features(ClipVersion(key, VIDEO, 5), appearance, motion)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    generator = torch.Generator().manual_seed(0)
    with FeatureWriter(folder, PROVENANCE, "backbones", ORIGIN) as writer:
        for index, (frames, rows) in enumerate(((3, 4), (5, 2))):
            features = torch.randn(frames, 6, rows, 3, generator=generator)
            add(writer, f"clip-{index}|HQ", features, features[:, :2])
    return folder


def test_features_come_back_in_half_precision(cache: Path) -> None:
    expected = torch.randn(3, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    read = FeatureCache(cache, PROVENANCE).read("clip-0|HQ")
    assert read.appearance.dtype == torch.float32
    torch.testing.assert_close(read.appearance[0], expected, rtol=5e-4, atol=1e-6)
    torch.testing.assert_close(read.motion[0], expected[:, :2], rtol=5e-4, atol=1e-6)
    assert read.cell_mask.shape == (1, 4, 3) and read.cell_mask.all()


def test_a_model_without_a_video_encoder_has_one_kind_of_features(tmp_path: Path) -> None:
    features = torch.randn(3, 6, 4, 3, generator=torch.Generator().manual_seed(0))
    with FeatureWriter(tmp_path / "cache", PROVENANCE, "backbones", ORIGIN) as writer:
        writer.add_features(ClipVersion("clip|HQ", VIDEO, 5), features)
    read = FeatureCache(tmp_path / "cache", PROVENANCE).read("clip|HQ")
    assert read.motion is None and read.cell_mask.all()
    torch.testing.assert_close(read.appearance[0], features, rtol=5e-4, atol=1e-6)


@pytest.mark.parametrize("value", [7e4, -7e4, float("nan")])
def test_features_beyond_half_precision_are_refused(tmp_path: Path, value: float) -> None:
    features = torch.tensor([1.0, value]).reshape(1, 1, 1, 2)
    writer = FeatureWriter(tmp_path / "cache", PROVENANCE, "backbones", ORIGIN)
    with pytest.raises(ValueError, match=r"'clip' must lie within 65504, .* got (70000|nan)"), writer:
        writer.add_features(ClipVersion("clip|HQ", VIDEO, 5), features)
    assert not (tmp_path / "cache").exists()


def test_the_pixels_are_those_of_the_machine_that_built_it(cache: Path) -> None:
    assert FeatureCache(cache, PROVENANCE).origin == PixelOrigin("cached features, on the fly", {"blur": "0f"})
    content = json.loads((cache / "index.json").read_text())
    del content["origin"], content["crc32"]
    (cache / "index.json").write_text(json.dumps(content))  # as it was before the pixels were noted
    unknown = FeatureCache(cache, PROVENANCE).origin
    assert unknown == PixelOrigin("cached features", None) and unknown.golden is None


def test_clips_may_differ_in_length_and_size(cache: Path) -> None:
    assert FeatureCache(cache, PROVENANCE).read("clip-1|HQ").appearance.shape == (1, 5, 6, 2, 3)


def test_a_damaged_byte_is_noticed_when_it_is_read(cache: Path) -> None:
    data = bytearray((cache / "features.bin").read_bytes())
    data[10] ^= 1
    (cache / "features.bin").write_bytes(data)
    opened = FeatureCache(cache, PROVENANCE)
    opened.read("clip-1|HQ")
    with pytest.raises(CacheError, match=r"clip-0\|HQ.*damaged.*delete"):
        opened.read("clip-0|HQ")


def test_a_truncated_file_is_refused(cache: Path) -> None:
    data = (cache / "features.bin").read_bytes()
    (cache / "features.bin").write_bytes(data[:-1])
    with pytest.raises(CacheError, match=f"must have {len(data)} bytes, got {len(data) - 1}"):
        FeatureCache(cache, PROVENANCE)


def test_a_damaged_index_is_refused(cache: Path) -> None:
    for content in ('{"rows": ', "[]", '{"rows": [1], "provenance": {}}'):
        (cache / "index.json").write_text(content)
        with pytest.raises(CacheError, match=r"index\.json' is damaged"):
            FeatureCache(cache, PROVENANCE)


def test_another_provenance_is_refused_by_name(cache: Path) -> None:
    with pytest.raises(CacheError, match=r"built with clips = 2, but this run has 3"):
        FeatureCache(cache, {**PROVENANCE, "clips": 3})


def test_an_absent_key_and_an_absent_cache_say_what_to_do(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"'clip-9\|HQ' is not in the feature cache"):
        FeatureCache(cache, PROVENANCE).read("clip-9|HQ")
    with pytest.raises(CacheError, match=r"build it with `python -m stvg_nst cache features`"):
        FeatureCache(tmp_path / "nothing", PROVENANCE)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        features = torch.zeros(1, 1, 1, 1)
        with FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) as writer:
            add(writer, "clip-0|HQ", features, features)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    features = torch.zeros(1, 1, 1, 1)
    with (
        pytest.raises(OSError, match="No space left"),
        FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) as writer,
    ):
        add(writer, "clip-0|HQ", features, features)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_another_process_finished_first_stays(tmp_path: Path) -> None:
    features = torch.zeros(1, 1, 1, 1)

    def slower() -> None:
        made = (FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) for _ in range(2))
        with next(made), next(made) as faster:  # the faster one is inside, and ends first
            add(faster, "clip-0|HQ", features, features)

    with pytest.raises(CacheError, match="cache' was finished by another process in the meantime; use it"):
        slower()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert "clip-0|HQ" in FeatureCache(tmp_path / "cache", PROVENANCE)


def test_what_a_killed_process_left_goes_and_what_a_live_one_writes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = torch.zeros(1, 1, 1, 1)
    abandoned = []

    def look(path: Path, text: str) -> None:  # while the last of the files is written
        abandoned.append(array_store._is_abandoned(path.parent / "features.bin"))
        path.write_bytes(text.encode())

    monkeypatch.setattr(Path, "write_text", look)
    left, other = tmp_path / ".cache.left", tmp_path / ".cache-benchmark1.left"
    for folder in (left, other):
        folder.mkdir()
        (folder / "features.bin").write_bytes(b"half a cac")
    with FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) as live:
        assert not left.exists() and other.exists()
        with (
            pytest.raises(KeyboardInterrupt),
            FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN),
        ):
            raise KeyboardInterrupt
        add(live, "clip-0|HQ", features, features)
    assert abandoned == [False]
    assert FeatureCache(tmp_path / "cache", PROVENANCE).read("clip-0|HQ").appearance.shape == (1, 1, 1, 1, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", other.name}


def test_where_files_cannot_be_locked_nothing_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_locks(file: object, operation: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(array_store.fcntl, "flock", without_locks)
    (tmp_path / ".cache.left").mkdir()
    (tmp_path / ".cache.left" / "features.bin").touch()
    features = torch.zeros(1, 1, 1, 1)
    with FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) as writer:
        add(writer, "clip-0|HQ", features, features)
    assert {path.name for path in tmp_path.iterdir()} == {"cache", ".cache.left"}


def test_keys_tell_qualities_kinds_severities_and_seeds_apart() -> None:
    degradations = [
        None,
        Degradation("a", 1, 0),
        Degradation("b", 1, 0),
        Degradation("a", 2, 0),
        Degradation("a", 1, 1),
    ]
    assert len({feature_key("clip", degradation) for degradation in degradations}) == 5


def test_features_of_other_frames_or_another_video_are_refused(tmp_path: Path) -> None:
    shown = replace(VIDEO, video=tmp_path / "a.mp4")
    features = torch.zeros(3, 1, 1, 1)
    with FeatureWriter(tmp_path / "cache", PROVENANCE, "b", ORIGIN) as writer:
        add(writer, "clip|HQ", features, features)
    cache = FeatureCache(tmp_path / "cache", PROVENANCE)
    cache.require({"clip|HQ": shown}, need_notes=True)  # the video is gone
    shown.video.write_bytes(b"5byte")
    cache.require({"clip|HQ": shown}, need_notes=True)
    with pytest.raises(CacheError, match="has other frames of 'clip'; delete"):
        cache.require({"clip|HQ": replace(shown, frame_ids=(0, 4, 9))}, need_notes=True)
    shown.video.write_bytes(b"6bytes")
    with pytest.raises(
        CacheError, match=r"has the frames of another '.*a\.mp4' of 'clip'; delete .* stvg_nst cache features`"
    ):
        cache.require({"clip|HQ": shown}, need_notes=True)
