"""The names of metrics and of the views that they are computed on.

A number is called ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``, such as ``LQ/declarative/vIoU@0.5``.
"""

from __future__ import annotations

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
