"""What the suite writes, it reads back: every file format of its own, whatever stands in it."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datamodules.annotated.manifest import VideoEntry, read_manifest, write_manifest
from datamodules.caches.array_store import ArrayStore, ArrayWriter, CacheKind
from datamodules.degradation.files import DegradedClip, DegradedManifest
from datamodules.degradation.files import read_manifest as read_degraded
from datamodules.degradation.files import write_manifest as write_degraded
from stvg_nst.configuration import differences, dump_yaml, load_yaml, read_yaml
from stvg_nst.evaluation import load_ground_truth, load_predictions, render_ground_truth, render_predictions
from stvg_nst.machine.whole_files import write_whole
from stvg_nst.models.encoding_store import EncodingStore
from stvg_nst.nullspace.store import DualSpaceStore
from stvg_nst.results.conditions import Measurement
from stvg_nst.results.metric_names import MetricName
from stvg_nst.results.results_file import RunResults, load_results, render_results

# Halves of surrogate pairs too, as Python has bytes that are no UTF-8 in the names of files.
NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=8) | st.builds(
    os.fsdecode, st.binary(min_size=1, max_size=8)
)
UNICODE = st.text(min_size=1, max_size=8)
WORDS = st.text(st.characters(exclude_characters="/"), min_size=1, max_size=8)
METRICS = st.builds(MetricName, WORDS, WORDS, st.none() | WORDS).map(str)
COUNTS = st.integers(0, 2**31 - 1)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
CORNERS = st.floats(-1e140, 1e140) | st.sampled_from([-0.0, 5e-324, -5e-324])


@st.composite
def tubes(draw: st.DrawFn) -> dict[str, Any]:
    start, length = draw(st.integers(0, 2**30)), draw(st.integers(1, 4))
    boxes = []
    for _ in range(length):
        (x1, x2), (y1, y2) = sorted(draw(st.tuples(CORNERS, CORNERS))), sorted(draw(st.tuples(CORNERS, CORNERS)))
        boxes.append([x1, y1, x2, y2])
    return {"start": start, "stop": start + length, "boxes": boxes}


@given(UNICODE, st.dictionaries(UNICODE, tubes(), min_size=1, max_size=3))
def test_tubes(tmp_path: Path, name: str, found: dict[str, dict[str, Any]]) -> None:
    entries = [{"item_id": item_id, **tube} for item_id, tube in found.items()]
    file = tmp_path / "tubes.json"
    write_whole(file, render_predictions(name, entries))
    predictions = load_predictions(file)
    write_whole(file, render_ground_truth(name, "test", entries))
    truth = load_ground_truth(file)
    assert (predictions.method, predictions.item_ids, truth.item_ids) == (name, tuple(found), tuple(found))
    boxes = np.array([box for tube in found.values() for box in tube["boxes"]])
    for read in (predictions.tubes, truth.tubes):
        assert read.start.tolist() == [tube["start"] for tube in found.values()]
        assert read.boxes.tobytes() == boxes.tobytes(), "every bit, the sign of zero too"


def optional(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


ENTRIES = st.builds(
    VideoEntry,
    path=NAMES,
    num_bytes=optional(st.integers(0, 2**60)),
    mtime_ns=optional(st.integers(-(2**63), 2**63 - 1)),  # from 1677 to 2262
    sha256=optional(st.text("0123456789abcdef", min_size=64, max_size=64)),
    num_frames=optional(COUNTS),
    fps=optional(st.floats(5e-324, 2**31 - 1, exclude_min=False)),
    size=optional(st.tuples(COUNTS, COUNTS)),
    times=optional(st.lists(st.floats(0, 1e6), max_size=3).map(tuple)),
    verdict=NAMES,
)


@given(st.dictionaries(NAMES, ENTRIES, max_size=3))
def test_the_manifest_of_videos(tmp_path: Path, entries: dict[str, VideoEntry]) -> None:
    write_manifest(tmp_path / "m.json", "vidstg", entries)
    assert read_manifest(tmp_path / "m.json", "vidstg") == entries


@given(
    st.builds(DegradedManifest, NAMES, NAMES, st.integers(), NAMES, st.dictionaries(NAMES, NAMES, max_size=2)),
    st.dictionaries(NAMES, st.builds(DegradedClip, size=st.tuples(COUNTS, COUNTS), fps=NUMBERS), max_size=2),
)
def test_the_manifest_of_degraded_clips(
    tmp_path: Path, manifest: DegradedManifest, clips: dict[str, DegradedClip]
) -> None:
    write_degraded(tmp_path, manifest, clips)
    assert read_degraded(tmp_path) == (manifest, clips)


KIND = CacheKind("cache", "data.bin", "float32", "make it", "features")
SHAPES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=3)


@settings(max_examples=20)
@given(st.data(), st.dictionaries(NAMES, SHAPES, max_size=3), st.dictionaries(NAMES, NAMES, max_size=2))
def test_caches(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    shapes: dict[str, list[tuple[int, int]]],
    provenance: dict[str, str],
) -> None:
    folder = tmp_path_factory.mktemp("cache") / "test"
    written = {key: [data.draw(arrays(np.float32, shape)) for shape in each] for key, each in shapes.items()}
    with ArrayWriter(KIND, folder, provenance) as writer:
        for key, values in written.items():
            writer.add(key, values)
    store = ArrayStore(KIND, folder, provenance)
    assert set(store.rows) == set(written)
    for key, values in written.items():
        read = store.read(key)
        assert [array.shape for array in read] == [array.shape for array in values]
        assert [array.tobytes() for array in read] == [array.tobytes() for array in values]


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 4)), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    ),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_dual_spaces(tmp_path: Path, numbers: np.ndarray, dtype: torch.dtype) -> None:
    store, weight = DualSpaceStore(tmp_path), torch.from_numpy(numbers).to(dtype)
    if not weight.isfinite().all():
        return
    made, read = store.get(weight), store.get(weight)
    for name, value in asdict(made).items():
        other = getattr(read, name)
        assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other, name


@settings(max_examples=20)
@given(arrays(np.float32, st.tuples(st.integers(0, 3), st.integers(1, 3))))
def test_encodings(tmp_path_factory: pytest.TempPathFactory, numbers: np.ndarray) -> None:
    store, tokens = EncodingStore(tmp_path_factory.mktemp("store"), "encoder"), torch.from_numpy(numbers)
    store.get("clip", lambda: tokens)
    store._confirmed = True  # NaN agrees with nothing, and is computed by no encoder
    assert store.get("clip", lambda: tokens).numpy().tobytes() == numbers.tobytes()


SETTINGS = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | UNICODE,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(UNICODE, inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(UNICODE, SETTINGS, max_size=3))
@example({"0E0": ["1e3", 1e3, "2024-01-31", "1:30"]})
def test_the_settings_of_a_study(tmp_path: Path, config: dict[str, Any]) -> None:
    write_whole(tmp_path / "point.yaml", dump_yaml(config))
    assert load_yaml(dump_yaml(config, in_a_line=True), "the command line") == config
    assert read_yaml(tmp_path / "point.yaml") == config
    assert not differences(read_yaml(tmp_path / "point.yaml"), config)


@settings(max_examples=30)
@given(UNICODE, st.dictionaries(METRICS, NUMBERS, min_size=1, max_size=2), st.none() | UNICODE)
def test_results(tmp_path: Path, name: str, metrics: dict[str, float], absent: str | None) -> None:
    written = RunResults(
        **{"path": tmp_path / "results.json", "method": name, "dataset": name, "split": name},
        **{"metrics": metrics, "seed": -1, "benchmark_seed": 2**70, "trainable_parameters": 0, "total_parameters": 1},
        **{"weights": absent, "versions": {}, "git_commit": absent, "config_hash": absent, "wall_seconds": 0.0},
        **{"git_dirty": None if absent is None else True, "data": {name: absent}, "injection": ({"name": name},)},
        **{"skipped": 0, "samples": ({"item_id": name, "quality": "HQ", "degradation": None, "tIoU": 5e-324},)},
        **{"measurement": None if absent is None else Measurement(absent), "evaluation_conditions": name},
    )
    write_whole(written.path, render_results(written))
    assert load_results(written.path) == written


def test_a_byte_order_mark_is_no_part_of_any_file(tmp_path: Path) -> None:
    mark = "\ufeff"
    write_manifest(tmp_path / "m.json", "vidstg", {"a": VideoEntry("a", mtime_ns=-1)})
    tube = {"item_id": "a", "start": 0, "stop": 1, "boxes": [[0, 0, 1, 1]]}
    readers = {
        "m.json": lambda path: read_manifest(path, "vidstg"),
        "p.json": load_predictions,
        "g.json": load_ground_truth,
        "s.yaml": read_yaml,
    }
    write_whole(tmp_path / "p.json", render_predictions("M", [tube]))
    write_whole(tmp_path / "g.json", render_ground_truth("D", "test", [tube]))
    write_whole(tmp_path / "s.yaml", "a: 1\n")
    for name, read in readers.items():
        text = (tmp_path / name).read_text()
        for ending in ("\n", "\r\n"):
            (tmp_path / name).write_bytes((mark + text.replace("\n", ending)).encode())
            read(tmp_path / name)
    assert math.isfinite(load_predictions(tmp_path / "p.json").tubes.boxes.sum())
