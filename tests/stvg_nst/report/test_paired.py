from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stvg_nst.report.findings import Findings
from stvg_nst.report.paired import PairedBootstrap
from stvg_nst.report.reading import read_findings
from stvg_nst.study import Study

Finish = Callable[..., Path]


@pytest.fixture
def findings(study: Study, finish: Finish) -> Findings:
    return read_findings([study], finish())


def bootstrap(findings: Findings, draws: int = 200) -> PairedBootstrap:
    return PairedBootstrap([own for method in findings.methods for own, _ in method.replicates], draws=draws)


@pytest.mark.parametrize(("view", "expected"), [("HQ", -3), ("LQ", 2), ("MQ", -0.5), ("WAS", -1)])
def test_the_same_difference_on_every_clip_has_no_width(findings: Findings, view: str, expected: float) -> None:
    lora, nst, _ = findings.methods
    for kind in (None, "declarative"):
        found = bootstrap(findings).difference(lora, nst, view, "m_vIoU", kind)
        assert found is not None and found.pairs == 4 and found.decided
        assert (found.mean, found.low, found.high) == pytest.approx((expected,) * 3)
    swapped = bootstrap(findings).difference(nst, lora, view, "m_vIoU")
    assert swapped is not None and swapped.mean == pytest.approx(-expected)


def test_clips_are_drawn_whole(findings: Findings) -> None:
    """A difference on one of four clips alone: a draw holds it k times of four, and its mean is k / 4 of it."""
    lora, nst, _ = findings.methods
    for own, _ in lora.replicates:
        for sample in own.results.samples:
            twin = next(
                s
                for s in nst.replicates[0][0].results.samples
                if (s["item_id"], s["quality"]) == (sample["item_id"], sample["quality"])
            )
            sample["vIoU"] = twin["vIoU"] + (0.4 if sample["item_id"].startswith("c2/") else 0.0)  # type: ignore[index]
    pairs = (
        replace(nst, replicates=nst.replicates[:1]),
        replace(lora, replicates=lora.replicates[:1]),
    )
    found = bootstrap(findings, draws=4000).difference(pairs[1], pairs[0], "MQ", "m_vIoU")
    assert found is not None
    assert found.mean == pytest.approx(10) and not found.decided
    count = np.random.default_rng(1).binomial(4, 0.25, size=100_000)
    assert (found.low, found.high) == pytest.approx(10 * np.quantile(count, [0.025, 0.975]))


def test_without_a_common_run_there_is_no_difference(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish(lambda run: run.point == "decoder / NST"))
    lora, nst, _ = findings.methods
    assert bootstrap(findings).difference(lora, nst, "MQ", "m_vIoU") is None
