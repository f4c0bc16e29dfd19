from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from stvg_nst.results.conditions import Measurement
from stvg_nst.results.results_file import (
    ResultsFileError,
    RunResults,
    add_certificate,
    load_results,
    render_results,
)
from tests.mutilation import mutilated

COMPLETE: dict[str, Any] = {
    "schema": 1,
    "method": "LoRA",
    "dataset": "MiniSTVG",
    "split": "test",
    "metrics": {"HQ/m_tIoU": 90.1, "HQ/m_vIoU": 80},
    "samples": [{"item_id": "a", "quality": "HQ"}, {"item_id": "a", "quality": "LQ"}],
    "seed": 3,
    "benchmark_seed": 0,
    "trainable_parameters": 123,
    "total_parameters": 456,
    "versions": {"torch": "2.14.1"},
    "git_commit": "abc",
    "config_hash": "def",
    "wall_seconds": 12.3,
    "skipped": 0,
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_reads_every_field(tmp_path: Path) -> None:
    path = written(tmp_path, COMPLETE | {"a later field": 1})
    run = load_results(path)
    assert run.path == path
    assert run.samples == tuple(COMPLETE["samples"])
    assert run.sample_keys == {("a", "HQ"), ("a", "LQ")}
    for name in COMPLETE.keys() - {"schema", "samples"}:
        assert getattr(run, name) == COMPLETE[name]
    assert load_results(written(tmp_path, COMPLETE | {"git_commit": None})).git_commit is None


def test_random_weights_are_known_and_older_files_readable(tmp_path: Path) -> None:
    for weights, random in (("random", True), ("weights/hcstvg.safetensors", False), (None, False)):
        assert load_results(written(tmp_path, COMPLETE | {"weights": weights})).random_weights is random
    assert load_results(written(tmp_path, COMPLETE)).weights is None


def test_results_from_before_there_was_a_choice_are_of_the_benchmarks_own_test(tmp_path: Path) -> None:
    assert load_results(written(tmp_path, COMPLETE)).conditions == ("MiniSTVG", "test", 0, "mixed")
    run = load_results(written(tmp_path, COMPLETE | {"evaluation_conditions": "matrix"}))
    assert str(run.conditions) == "MiniSTVG test, benchmark seed 0, shown in matrix"


@pytest.mark.parametrize(
    ("policies", "place"),
    [
        ([], "policies"),
        ({"a": 1}, "policies.a"),
        ({"a": {"policy": 1}}, "policies.a.policy"),
        ({"a": {"policy": "clip"}}, "policies.a.touched"),
        ({"a": {"policy": "clip", "touched": {"test": 3}}}, "policies.a.touched.test"),
        ({"a": {"policy": "clip", "touched": {"test": {"frames": "3"}}}}, "policies.a.touched.test.frames"),
    ],
)
def test_what_was_done_with_faulty_data_is_checked(tmp_path: Path, policies: Any, place: str) -> None:
    with pytest.raises(ResultsFileError, match=f"field '{place}' must be "):
        load_results(written(tmp_path, COMPLETE | {"policies": policies}))


def test_an_item_in_two_degradations_is_two_samples(tmp_path: Path) -> None:
    samples = [{"item_id": "a", "quality": "LQ", "degradation": f"defocus:{severity}"} for severity in (1, 2)]
    assert len(load_results(written(tmp_path, COMPLETE | {"samples": samples})).sample_keys) == 2


@pytest.mark.parametrize("name", sorted(COMPLETE))
def test_a_missing_field_is_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, {key: value for key, value in COMPLETE.items() if key != name})
    with pytest.raises(ResultsFileError, match=f"^{path}: field '{name}'"):
        load_results(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "'schema' must be 1, got 2"),
        ({"seed": "0"}, "'seed' must be int, got '0'"),
        ({"seed": True}, "'seed' must be int, got True"),
        ({"weights": 1}, "'weights' must be str or null, got 1"),
        ({"git_dirty": 1}, "'git_dirty' must be bool or null, got 1"),
        ({"injection": [1]}, r"'injection\[0\]' must be dict, got 1"),
        ({"git_commit": 1}, "'git_commit' must be str or null, got 1"),
        ({"metrics": {}}, "'metrics' is empty"),
        ({"metrics": {"HQ/": 1}}, "'metrics.HQ/': expected <view>/<metric> or .* got 'HQ/'"),
        ({"metrics": {"HQ/m_tIoU": None}}, "'metrics.HQ/m_tIoU' must be float or int, got None"),
        ({"metrics": {"HQ/m_tIoU": float("nan")}}, "'metrics.HQ/m_tIoU' must be finite, got nan"),
        ({"samples": [{"item_id": "a", "quality": "HQ"}, 7]}, r"'samples\[1\]' must be dict, got 7"),
        ({"samples": [{"item_id": "a"}]}, r"'samples\[0\]\.quality' must be str, got None"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, COMPLETE | change)
    with pytest.raises(ResultsFileError, match=f"^{path}: field {message}"):
        load_results(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"schema": 1, "met', "was the run cut off"),
        ("[1]", "expected a JSON object, got list"),
        ("", "is not JSON"),
        ("[" * 100_000, "results.json: expected JSON of a few levels"),
        ('{"seed": ' + "1" * 5_000 + "}", "results.json: expected numbers of a few digits"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_results_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ResultsFileError, match=message):
        load_results(written(tmp_path, content))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultsFileError, match="cannot be read: No such file"):
        load_results(tmp_path / "results.json")
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ResultsFileError, match="is not UTF-8"):
        load_results(tmp_path / "results.json")


@given(content=mutilated(COMPLETE | {"samples": [{"item_id": "a", "quality": "LQ", "degradation": "defocus:1"}]}))
def test_any_file_is_read_or_refused_by_its_name(tmp_path: Path, content: Any) -> None:
    path = written(tmp_path, content)
    run, refusal = None, f"{path}: "
    try:
        run = load_results(path)
    except ResultsFileError as error:
        refusal = str(error)
    assert refusal.startswith(f"{path}: ")
    assert run is None or (run.metrics and len(run.sample_keys) <= len(run.samples))


def test_how_it_was_measured_is_read(tmp_path: Path) -> None:
    assert load_results(written(tmp_path, COMPLETE)).measurement is None, "older files do not say"
    said = asdict(Measurement("16-mixed", compiled=True))
    assert load_results(written(tmp_path, COMPLETE | {"measurement": said | {"a later field": 1}})).measurement == (
        Measurement("16-mixed", compiled=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": 32}, "field 'measurement.precision' must be str, got 32"),
        ({"compiled": "no"}, "field 'measurement.compiled' must be bool, got 'no'"),
        ({"device": None}, "field 'measurement.device' must be str, got None"),
    ],
)
def test_a_damaged_record_of_it_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultsFileError, match=message):
        load_results(written(tmp_path, COMPLETE | {"measurement": asdict(Measurement()) | change}))


def test_every_field_is_written_and_nothing_that_is_not_json(tmp_path: Path) -> None:
    run = load_results(written(tmp_path, COMPLETE))
    again = json.loads(render_results(run))
    assert again.keys() == {"schema"} | {own.name for own in fields(RunResults)} - {"path"}
    assert {name: again[name] for name in COMPLETE} == COMPLETE
    for data, error in (({"folder": tmp_path}, TypeError), ({"rate": float("nan")}, ValueError)):
        with pytest.raises(error):
            render_results(replace(run, data=data))


def test_a_certificate_joins_the_numbers(tmp_path: Path) -> None:
    path = written(tmp_path, COMPLETE | {"a later field": 1})
    path.write_text(add_certificate(path.read_text(), {"gate": "soft"}))
    assert json.loads(path.read_text()) == COMPLETE | {"a later field": 1, "certificate": {"gate": "soft"}}
    assert load_results(path).metrics == COMPLETE["metrics"]
