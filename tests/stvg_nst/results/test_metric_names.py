from __future__ import annotations

import re

import pytest

from stvg_nst.results.metric_names import MetricName, sentence_types_of, views_of

NAMES = ("HQ/m_vIoU", "LQ/declarative/vIoU@0.5", "defocus:3/m_tIoU", "LQ/m_vIoU", "LQ/interrogative/m_vIoU")


@pytest.mark.parametrize("name", [*NAMES, "loss"])
def test_what_is_parsed_is_printed(name: str) -> None:
    assert str(MetricName.parse(name)) == name


def test_the_same_metric_on_another_view() -> None:
    assert MetricName.parse("LQ/declarative/vIoU@0.5").on("WAS") == "WAS/declarative/vIoU@0.5"


@pytest.mark.parametrize("name", ["", "HQ/", "/m_vIoU", "HQ//m_vIoU", "HQ/declarative/long/m_vIoU"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"<view>/<sentence type>/<metric>, got '{name}'")):
        MetricName.parse(name)


def test_views_and_sentence_types_are_named_once() -> None:
    assert views_of(NAMES) == ("HQ", "LQ", "defocus:3")
    assert sentence_types_of(NAMES) == ("declarative", "interrogative")
