"""A baseline beside the numbers that were published of it: tubes counted by their protocol, and a loud end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stvg_nst.report.reading import read_findings
from stvg_nst.report.reproduction import Reproduction
from stvg_nst.report.sheet import sheet_csv, sheet_text
from stvg_nst.study import Study, StudyError
from stvg_nst.study.published import Published

# The fixture's tubes are all true ones of four frames, of which the protocol does not count the last: 3 / 4.
NUMBERS = {"HQ/m_vIoU": 75.0, "HQ/declarative/m_tIoU": 74.4}
PUBLISHED = Published("a paper", "cgstvg", 0.5, NUMBERS, ("the weights", "the films"))


def reproduction(study: Study, finish: Callable[..., Path], published: Published) -> Reproduction:
    study = replace(study, points={}, published=published)
    return Reproduction.of(read_findings([study], finish(of=study)))


def test_tubes_are_counted_by_the_published_protocol(study: Study, finish: Callable[..., Path]) -> None:
    found = reproduction(study, finish, replace(PUBLISHED, tolerance=0.7))
    assert found.off == () and found.measured["HQ/m_vIoU"] == pytest.approx(75.0)
    found.require()
    assert "reproduced" in sheet_text(found.sheet()) and "NOT" not in sheet_text(found.sheet())
    assert sheet_csv(found.sheet()).splitlines()[1] == "Peers,HQ/m_vIoU,75.0,75.0,True"


def test_a_number_that_is_off_ends_it_with_what_to_look_at(study: Study, finish: Callable[..., Path]) -> None:
    found = reproduction(study, finish, PUBLISHED)
    assert found.off == ("HQ/declarative/m_tIoU",)
    assert "NOT REPRODUCED" in sheet_text(found.sheet())
    message = (
        r"not reproduced within 0\.5 points of a paper:\n  HQ/declarative/m_tIoU: 75\.00, published 74\.4\n"
        r"look at:\n  the weights\n  the films"
    )
    with pytest.raises(StudyError, match=message):
        found.require()


def test_a_study_cut_short_is_not_asked(study: Study, finish: Callable[..., Path]) -> None:
    found = reproduction(replace(study, quick=True), finish, PUBLISHED)
    found.require()
    assert "not asked: QUICK" in sheet_text(found.sheet())


def test_a_number_that_nobody_measured_is_named(study: Study, finish: Callable[..., Path]) -> None:
    with pytest.raises(StudyError, match=r"'published' has severity-3/m_vIoU, but '.*' measured HQ/"):
        reproduction(study, finish, replace(PUBLISHED, numbers={"severity-3/m_vIoU": 1.0}))
