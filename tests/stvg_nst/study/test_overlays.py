from __future__ import annotations

import pytest

from stvg_nst.study import StudyError
from stvg_nst.study.overlays import override

NST = {"model": {"tuner": {"class_path": "NST", "init_args": {"rank": 4, "targets": ["a", "b"]}}, "warmup": 1}}


def test_another_class_takes_over_no_arguments() -> None:
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
