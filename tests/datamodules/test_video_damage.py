"""Whatever the bytes of a video file are: frames or a `VideoDecodeError`, in time, and the process lives on."""

from __future__ import annotations

import io
import wave
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from datamodules.annotated import open_source
from datamodules.annotated.verify import verify
from tests.datamodules.damage import damaged, outcome
from tests.datamodules.published import hcstvg_item, write_clip, write_json

SECONDS = 30
"""For one file, which takes milliseconds."""


def remuxed(source: Path, container: str) -> bytes:
    """The same stream in another container."""
    target = io.BytesIO()
    with av.open(str(source)) as old, av.open(target, "w", format=container) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    return target.getvalue()


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    clip = write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")
    return {"mp4": clip.read_bytes(), **{name: remuxed(clip, name) for name in ("matroska", "avi", "mpegts")}}


@pytest.fixture(scope="module")
def reader() -> Iterator[ProcessPoolExecutor]:
    """A process of its own: a decoder that hangs or dies cannot be caught from within."""
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as pool:
        yield pool


def read(reader: ProcessPoolExecutor, path: Path, content: bytes) -> str:
    path.write_bytes(content)
    # A process that died raises here, as does one that takes too long.
    return reader.submit(outcome, path).result(timeout=SECONDS)


def test_whole_files_are_sound_in_every_container(
    reader: ProcessPoolExecutor, wholes: dict[str, bytes], tmp_path: Path
) -> None:
    found = {name: read(reader, tmp_path / "a.mp4", whole) for name, whole in wholes.items()}
    assert found == dict.fromkeys(wholes, "sound")


@given(data=st.data())
def test_any_damage_is_refused_or_harmless(
    reader: ProcessPoolExecutor, wholes: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = data.draw(damaged(list(wholes.values())))
    assume(content not in wholes.values())
    assert read(reader, tmp_path / "a.mp4", content) in ("refused", "sound")


@given(content=st.binary(max_size=2000))
def test_any_bytes_are_refused(reader: ProcessPoolExecutor, tmp_path: Path, content: bytes) -> None:
    assert read(reader, tmp_path / "a.mp4", content) == "refused"


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
