"""Whatever the bytes of a video file are: frames or a `VideoDecodeError`, in time, and the process lives on."""

from __future__ import annotations

import io
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import assume, event, given
from hypothesis import strategies as st

from datamodules.annotated.verify import verify
from datamodules.data_sets import open_source
from datamodules.video import VideoDecodeError, iter_frames, probe, read_frames
from tests.datamodules.damage import damaged
from tests.datamodules.own_process import SECONDS, OwnProcess
from tests.datamodules.published import NUM_FRAMES, hcstvg_item, write_json


def encoded(container: str, *, title: str = "") -> bytes:
    """Smooth noise that drifts, as H.264 with frames that refer to later ones."""
    target, noise = io.BytesIO(), np.random.default_rng(0).integers(40, 200, (6, 8, 3)).astype(np.uint8)
    with av.open(target, "w", format=container) as file:
        file.metadata["title"] = title
        stream = file.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.thread_count = 1
        for index in range(NUM_FRAMES):
            frame = np.roll(noise.repeat(8, axis=0).repeat(8, axis=1), index, axis=1)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return target.getvalue()


@pytest.fixture(scope="module")
def wholes() -> dict[str, bytes]:
    return {container: encoded(container) for container in ("mp4", "mov", "matroska", "avi")}


def outcome(path: Path) -> str:
    """``sound``, or ``refused`` by the error that is meant for it; another error, or a contradiction, ends all."""
    try:
        info = probe(path)
    except VideoDecodeError:
        return "refused"
    first = read_frames(path, (0,))
    assert info.num_frames >= 1 and info.fps > 0 and first.shape == (1, *info.size, 3)
    chunks = [chunk.shape for chunk in iter_frames(path)]
    assert probe(path) == info and sum(shape[0] for shape in chunks) == info.num_frames
    return "sound"


class Reader:
    """Says what reading makes of a file with some content."""

    def __init__(self) -> None:
        self._outcome = OwnProcess(outcome)
        self.stop = self._outcome.stop

    def __call__(self, path: Path, content: bytes) -> str:
        path.write_bytes(content)
        return str(self._outcome(path))


@pytest.fixture(scope="module")
def read() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.stop()


def test_whole_files_are_sound_in_every_container(read: Reader, wholes: dict[str, bytes], tmp_path: Path) -> None:
    found = {name: read(tmp_path / "a.mp4", whole) for name, whole in wholes.items()}
    assert found == dict.fromkeys(wholes, "sound")


@given(data=st.data())
def test_any_damage_is_refused_or_harmless(
    read: Reader, wholes: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = data.draw(damaged(list(wholes.values())))
    assume(content not in wholes.values())
    event(found := read(tmp_path / "a.mp4", content))
    assert found in ("refused", "sound")


@given(content=st.binary(max_size=2000))
def test_any_bytes_are_refused(read: Reader, tmp_path: Path, content: bytes) -> None:
    assert read(tmp_path / "a.mp4", content) == "refused"


def test_a_title_in_another_encoding_is_no_damage(read: Reader, tmp_path: Path) -> None:
    content = encoded("matroska", title="Noel")
    assert content.count(b"Noel") == 1
    assert read(tmp_path / "a.mkv", content.replace(b"Noel", "No\xebl".encode("latin-1"))) == "sound"


def test_files_of_other_kinds_cost_verification_nothing_but_themselves(
    wholes: dict[str, bytes], tmp_path: Path
) -> None:
    sound, archive, picture = io.BytesIO(), io.BytesIO(), np.full((48, 64, 3), 90, np.uint8)
    with wave.open(sound, "wb") as stream:
        stream.setparams((1, 2, 8000, 0, "NONE", ""))
        stream.writeframes(bytes(8000))
    with zipfile.ZipFile(archive, "w") as entries:
        entries.writestr("a.mp4", wholes["mp4"])
    files = {
        "film.mp4": wholes["mp4"],
        "\u6620\u50cf \u00e9 [1].mp4": wholes["matroska"],  # another container by this name is still a film
        "sound.mp4": sound.getvalue(),
        "archive.mp4": archive.getvalue(),
        "picture.mp4": cv2.imencode(".png", picture)[1].tobytes(),
        "text.mp4": b"Not Found\n" * 100,
    }
    write_json(tmp_path / "annos/hcstvg_v1/train.json", {name: hcstvg_item() for name in files})
    (tmp_path / "v1_video").mkdir()
    for name, content in files.items():
        (tmp_path / "v1_video" / name).write_bytes(content)
    found = verify(
        open_source("hcstvg_v1", tmp_path),
        ("train",),
        tmp_path / "manifest.json",
        expect_official_counts=False,
        workers=1,
        time_limit=SECONDS,
    )
    said = {Path(fault.where).name: fault.what for fault in found.faults}
    assert found.num_checked == 6 and said.keys() == files.keys() - {"film.mp4", "\u6620\u50cf \u00e9 [1].mp4"}
    assert all(what.startswith(("unreadable: ", "damaged: ", "too short: ")) for what in said.values()), said
