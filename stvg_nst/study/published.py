"""Numbers that others have published of a study's baseline, which it must meet before anything is compared with it.

::

    published:
      source: "Gu et al., CVPR 2024, table 1"
      protocol: cgstvg                  # how the numbers were counted; docs/evaluation.md
      tolerance: 0.5                    # percent points, either way
      numbers: {HQ/m_tIoU: 52.8}        # percent, by the names of docs/evaluation.md
      otherwise:                        # what to look at where a number is further off
        - "the weights: ..."
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stvg_nst.evaluation.protocols import PROTOCOLS, Protocol
from stvg_nst.results.metric_names import METRICS, MetricName
from stvg_nst.study.fields import refuse_unknown, take
from stvg_nst.study.overlays import StudyError

_KEYS = ("source", "protocol", "tolerance", "numbers", "otherwise")


@dataclass(frozen=True, slots=True)
class Published:
    """What a baseline must reproduce.

    Args:
        source: who published the numbers, and where.
        protocol: that they were counted by.
        tolerance: by how many points a measured number may differ, either way.
        numbers: in percent, by ``<view>/<metric>`` or ``<view>/<sentence type>/<metric>``.
        otherwise: what to look at where one differs by more.
    """

    source: str
    protocol: Protocol
    tolerance: float
    numbers: Mapping[str, float]
    otherwise: tuple[str, ...]

    @classmethod
    def parse(cls, content: Mapping[str, Any]) -> Published:
        """The section ``published`` of a study file.

        Raises:
            StudyError: a key is misspelt, missing or of a wrong type.
        """
        refuse_unknown(content, _KEYS, "'published'")
        protocol, numbers = take(content, "protocol", str), take(content, "numbers", dict)
        if protocol not in PROTOCOLS:
            raise StudyError(f"'published' names a protocol of {', '.join(PROTOCOLS)}, got '{protocol}'")
        for name, value in numbers.items():
            try:
                metric = MetricName.parse(str(name)).metric
            except ValueError as error:
                raise StudyError(f"'published': {error}") from error
            if metric not in METRICS or type(value) not in (int, float):
                raise StudyError(f"'published' has numbers of {', '.join(METRICS)} by view, got '{name}': {value!r}")
        return cls(
            take(content, "source", str),
            protocol,
            float(take(content, "tolerance", (int, float))),
            numbers,
            tuple(take(content, "otherwise", list)),
        )
