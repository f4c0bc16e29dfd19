"""The names of metrics and of the views that they are computed on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

THRESHOLDS = (0.3, 0.5)
METRICS = ("m_tIoU", "m_vIoU", *(f"vIoU@{threshold:g}" for threshold in THRESHOLDS))
MAIN = "m_vIoU"
"""The metric that is shown where there is room for one."""

VIEWS = ("HQ", "LQ", "MQ", "WAS")
"""The two qualities, their mean, and the Weighted Adaptation Score."""

MEAN_KIND, WORST_KIND, RELATIVE = "LQ-mean", "LQ-worst", "LQ-relative"
SEVERITY = "severity-"
# A hyphen keeps these apart from kinds of degradation, whose names have none.
SUMMARIES = {MEAN_KIND: "mean of kinds", WORST_KIND: "worst kind", RELATIVE: "LQ / HQ, %"}
"""What is made of the kinds of degradation, and what tables call it."""


def view_label(view: str) -> str:
    """What tables call a view.

    >>> view_label("LQ-worst"), view_label("severity-3"), view_label("HQ")
    ('worst kind', 'severity 3', 'HQ')
    """
    return SUMMARIES.get(view, view.replace(SEVERITY, "severity "))


class MetricName(NamedTuple):
    """What a number is called: ``<view>/<metric>``, or ``<view>/<sentence type>/<metric>`` for sentences of one type.

    A name without a view, such as ``loss``, has an empty one; no table shows it.

    >>> MetricName.parse("LQ/declarative/vIoU@0.5")
    MetricName(view='LQ', metric='vIoU@0.5', sentence_type='declarative')
    >>> str(MetricName("HQ", "m_vIoU"))
    'HQ/m_vIoU'
    """

    view: str
    metric: str
    sentence_type: str | None = None

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """The parts of a name.

        Raises:
            ValueError: it is no such name.
        """
        *place, metric = parts = text.split("/")
        if len(parts) > 3 or not all(parts):
            raise ValueError(f"expected <view>/<metric> or <view>/<sentence type>/<metric>, got '{text}'")
        return cls(place[0] if place else "", metric, *place[1:])

    def __str__(self) -> str:
        return "/".join(part for part in (self.view, self.sentence_type, self.metric) if part)

    def on(self, view: str) -> str:
        """What the same metric is called on another view."""
        return str(self._replace(view=view))


def views_of(names: Iterable[str]) -> tuple[str, ...]:
    """The views of metrics of these names, in the order of their first appearance."""
    return tuple(dict.fromkeys(MetricName.parse(name).view for name in names))


def sentence_types_of(names: Iterable[str]) -> tuple[str, ...]:
    """The sentence types that some of these names are of, in the order of their first appearance."""
    found = dict.fromkeys(MetricName.parse(name).sentence_type for name in names)
    return tuple(kind for kind in found if kind is not None)
