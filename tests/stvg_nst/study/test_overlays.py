from __future__ import annotations

from pathlib import Path

import pytest

from stvg_nst.study import StudyError
from stvg_nst.study.overlays import differences, merge, override, read_yaml

NST = {"model": {"tuner": {"class_path": "NST", "init_args": {"rank": 4, "targets": ["a", "b"]}}, "warmup": 1}}


def test_mappings_are_merged_and_lists_replaced() -> None:
    above = {"model": {"tuner": {"init_args": {"targets": ["c"]}}}}
    tuner = {"class_path": "NST", "init_args": {"rank": 4, "targets": ["c"]}}
    assert merge(NST, above) == {"model": {"tuner": tuner, "warmup": 1}}
    assert NST["model"]["tuner"]["init_args"]["targets"] == ["a", "b"], "what is merged stays as it was"


def test_a_list_is_extended_where_it_says_so() -> None:
    assert merge({"callbacks": ["A"]}, {"callbacks+": ["B", "C"]}) == {"callbacks": ["A", "B", "C"]}
    assert merge({}, {"callbacks+": "A"}) == {"callbacks": ["A"]}


def test_another_class_takes_over_no_arguments() -> None:
    lora = merge(NST, {"model": {"tuner": {"class_path": "LoRA", "init_args": {"alpha": 1}}}})
    assert lora["model"]["tuner"] == {"class_path": "LoRA", "init_args": {"alpha": 1}}
    assert override(NST, "model.tuner.class_path", "LoRA")["model"]["tuner"] == {"class_path": "LoRA"}


def test_one_dotted_name_is_set() -> None:
    assert override(NST, "model.tuner.init_args.gate", "hard")["model"]["tuner"]["init_args"] == {
        "rank": 4,
        "targets": ["a", "b"],
        "gate": "hard",
    }
    bare = {"tuner": {"class_path": "Full"}}
    assert override(bare, "tuner.init_args.scope", 1) == {"tuner": {"class_path": "Full", "init_args": {"scope": 1}}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.tunr.init_args.rank", "the overlays have no section 'model.tunr'"),
        ("model.warmup.steps", "the overlays have no section 'model.warmup'"),
        ("model.tuner.rank", r"write 'model\.tuner\.init_args\.rank'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(StudyError, match=f"'{name}' sets nothing: .*{message}"):
        override(NST, name, 3)


def test_differences_are_named() -> None:
    before, now = {"a": {"b": 1, "c": [1]}, "d": None}, {"a": {"b": 2, "c": [1]}, "e": {}}
    assert differences(before, now) == [
        "a.b: 1 before, 2 now",
        "d: None before, 'absent' now",
        "e: 'absent' before, {} now",
    ]
    assert differences(now, now) == []


def test_numbers_are_read_as_the_command_line_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("{a: 1e-3, b: 2.0e-3, c: 1e5, d: e3, e: 12, f: -4E2}")
    assert read_yaml(path) == {"a": 1e-3, "b": 2e-3, "c": 1e5, "d": "e3", "e": 12, "f": -400.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", r"'c' is given twice(.|\n)*line 2"),
        ("a: [1", "line 1"),
        ("- 1", "expected a mapping, got list"),
        ("", "expected a mapping, got NoneType"),
    ],
)
def test_damaged_yaml_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match=f"^{path}: (.|\n)*{message}"):
        read_yaml(path)
    with pytest.raises(StudyError, match="absent: cannot be read: No such file"):
        read_yaml(tmp_path / "absent")
