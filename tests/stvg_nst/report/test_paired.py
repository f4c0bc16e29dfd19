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


def test_sentences_about_one_video_are_drawn_together_whatever_they_are_called(findings: Findings) -> None:
    """A difference on two of eight sentences: on one clip it is as uncertain as one of four, not as two of eight."""
    lora, nst, _ = findings.methods
    for replicate in (*(own for own, _ in lora.replicates), *(own for own, _ in nst.replicates)):
        for sample in replicate.results.samples:
            clip, _, kind = sample["item_id"].partition("/")
            sample["item_id"], sample["clip"] = f"{kind} of {clip}", clip  # type: ignore[index]
    shift(findings, lambda seed, item: 0.4 * item.endswith("c2"))
    found = bootstrap(findings, draws=4000).difference(lora, nst, "MQ", "m_vIoU")
    assert found is not None and found.mean == pytest.approx(10)
    count = np.random.default_rng(1).binomial(4, 0.25, size=100_000)
    assert (found.low, found.high) == pytest.approx(10 * np.quantile(count, [0.025, 0.975]))


def shift(findings: Findings, by: Callable[[int, str], float]) -> None:
    """Lets LoRA be as good as NST in the decoders, but for so much overlap, by seed and clip, on both qualities."""
    lora, nst, _ = findings.methods
    for (own, _), (other, _) in zip(lora.replicates, nst.replicates, strict=True):
        assert own.place == other.place
        for sample, twin in zip(own.results.samples, other.results.samples, strict=True):
            added = by(own.run.seed or 0, sample["item_id"].split("/")[0])
            sample["vIoU"] = twin["vIoU"] + added  # type: ignore[index]


def test_seeds_are_drawn_where_it_is_asked_for_with_all_their_runs(findings: Findings) -> None:
    """A difference of 20 points under one of two seeds: a draw has it 0, 1 or 2 times of 2."""
    shift(findings, lambda seed, clip: 0.2 * seed)
    lora, nst, _ = findings.methods
    replicates = [own for method in findings.methods for own, _ in method.replicates]
    fixed, drawn = (PairedBootstrap(replicates, draws=4000, over_seeds=over) for over in (False, True))
    found = fixed.difference(lora, nst, "MQ", "m_vIoU")
    assert found is not None and (found.mean, found.low, found.high) == pytest.approx((10, 10, 10))
    assert found.p == pytest.approx(2 / 4001)
    found = drawn.difference(lora, nst, "MQ", "m_vIoU")
    assert found is not None and (found.mean, found.low, found.high) == pytest.approx((10, 0, 20))
    assert found.p == pytest.approx(2 * 0.25, abs=0.03) and not found.decided


def test_clips_and_seeds_are_drawn_apart(findings: Findings) -> None:
    """A difference of 40 points on one of four clips under one of two seeds, and of 10 everywhere."""
    shift(findings, lambda seed, clip: 0.1 + 0.4 * (seed == 1 and clip == "c2"))
    lora, nst, _ = findings.methods
    replicates = [own for method in findings.methods for own, _ in method.replicates]
    found = PairedBootstrap(replicates, draws=4000, over_seeds=True).difference(lora, nst, "WAS", "m_vIoU")
    assert found is not None and found.decided and found.mean == pytest.approx(2 * (10 + 40 / 8))
    generator = np.random.default_rng(1)
    clips, seeds = generator.binomial(4, 0.25, size=100_000), generator.binomial(2, 0.5, size=100_000)
    expected = np.quantile(2 * (10 + 40 * clips / 4 * seeds / 2), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx(expected)


def test_without_a_common_run_there_is_no_difference(study: Study, finish: Finish) -> None:
    findings = read_findings([study], finish(lambda run: run.point == "decoder / NST"))
    lora, nst, _ = findings.methods
    assert bootstrap(findings).difference(lora, nst, "MQ", "m_vIoU") is None
