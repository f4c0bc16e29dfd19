"""What two answers mean, in words and bars, as pieces of HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from stvg_nst.commands.demo.comparison import Comparison
from stvg_nst.prediction import Answer
from stvg_nst.report.certificate import Certificate, OutputChange, certificate_of
from stvg_nst.results.run_folder import RunFile

READY = "<p>Above is the film, and what is left of it. Press <b>Ask both models</b>: their answers appear here.</p>"
_NST = "NullSpaceTuning"
_SAME, _CLEAR = 0.995, 2.0  # vIoU above which answers count as one; points below which a change counts as none


def verdict(found: Comparison) -> str:
    """What tuning did to this clip: scores where the truth is known, how far the answers differ, and who gave them."""
    rows = _score("Frozen model", "frozen", found, found.frozen)
    rows += _score(f"Tuned, {_method(found)}", "tuned", found, found.tuned)
    return f"<h3>{escape(headline(found))}</h3><table class='scores'>{rows}</table><p>{escape(found.tuned.model)}</p>"


def headline(found: Comparison) -> str:
    """The finding in a sentence."""
    before, after = found.points(found.frozen), found.points(found.tuned)
    same = "Both models give the same answer"
    if before is None or after is None:
        words = f"{same}." if found.agreement >= _SAME else f"The two answers overlap by {_percent(found.agreement)}."
        return f"{words} What is true is not known here."
    if found.agreement >= _SAME:
        return f"{same}. It overlaps with the truth by {after:.0f} %."
    change = round(after) - round(before)  # of the numbers that are shown
    if abs(change) < _CLEAR:
        did = "leaves this answer as good as it is"
    else:
        did = f"{'restores' if change > 0 else 'loses'} {abs(change):.0f} points here"
    return f"{_method(found)} {did}: {before:.0f} % overlap with the truth before, {after:.0f} % after."


def meter(found: Comparison) -> str:
    """How degraded the router takes the clip to be, as a needle between clean and degraded, and what the gate does."""
    if found.tuned.quality is None:
        return ""
    quality, threshold = found.tuned.quality, found.tuned.degraded_above
    says = f"The router gives this clip {quality:.2f}, on a scale from clean (0) to degraded (1)."
    mark = ""
    if not found.hard:
        does = f"The gate is soft: the tuned part acts by about {_percent(quality)}."
    else:
        mark = f"<i style='left:{100 * threshold:.1f}%' class='mark'></i>"
        limit = f"{threshold:.2f}, the line in the bar"
        if quality > threshold:
            does = f"That is above {limit}: <b>the gate is open</b>, and the tuned part works."
        else:
            does = f"That is not above {limit}: <b>the gate is shut</b>, and the answer is the frozen model's."
    return (
        "<div class='meter'><b>The gate</b><span>clean</span>"
        f"<div class='scale' role='meter' aria-valuenow='{quality:.2f}' aria-valuemin='0' aria-valuemax='1'>"
        f"{mark}<i style='left:{100 * quality:.1f}%' class='needle'></i>"
        f"</div><span>degraded</span></div><p>{says} {does}</p>"
    )


def promise(run: Path | None, found: Comparison) -> str:
    """What is certain of the tuned model, from its certificate; how to get one where there is none."""
    if found.tuned.method != _NST:
        return ""
    try:
        certificate = None if run is None else certificate_of(run, run / RunFile.ADAPTER)
    except (ValueError, OSError) as error:
        return f"<p class='note'><b>What is certain</b> is not known: {escape(str(error))}.</p>"
    if certificate is not None:
        where = escape(f"{certificate.dataset} {certificate.split}")
        lines = "".join(f"<li>{line}</li>" for line in _certified(certificate))
        return f"<div class='note'><b>What is certain</b>, checked on clips of {where}:<ul>{lines}</ul></div>"
    command = f"<code>python -m stvg_nst certify {escape(str(run))}</code> measures that."
    return (
        "<p class='note'><b>What is certain.</b> While the gate is shut, null-space tuning gives the frozen model's "
        f"answer. {'<code>docs/certificate.md</code> says why.' if run is None else command}</p>"
    )


def _certified(certificate: Certificate) -> Iterator[str]:
    shut = [change for change in certificate.changes if "closed" in (change.gate, change.clips)]
    if promised := [change for change in shut if change.standing == "guarantee"]:
        count, broken = _total(promised), _total([change for change in promised if not change.none])
        held = f"{broken:,} of {count:,} answers break it: a bug" if broken else f"All {count:,} answers hold to it"
        yield f"Guaranteed for any clip: while the gate is shut, the answer is the frozen model's, bit for bit. {held}."
    if bounded := [change for change in shut if change.standing == "bound"]:
        count, differ = _total(bounded), sum(change.tubes for change in bounded)
        yield (
            "Limited for any clip: while the gate is shut, a layer lets through its worst leak and rounding at most. "
            f"{differ:,} of {count:,} answers differ from the frozen model's."
        )
    for clips, name in (("HQ", "clean"), ("LQ", "degraded")):
        for change in certificate.changes:
            if (change.gate, change.clips) == ("own", clips):
                yield f"Seen, with the gate at work: on {name} clips {_differ(change)}."


def _differ(change: OutputChange) -> str:
    if change.none:
        return f"all {change.count:,} answers are the frozen model's, bit for bit"
    return f"{change.tubes:,} of {change.count:,} answers differ from the frozen model's"


def _total(changes: list[OutputChange]) -> int:
    return sum(change.count for change in changes)


def _method(found: Comparison) -> str:
    return "NST" if found.tuned.method == _NST else found.tuned.method


def _score(title: str, kind: str, found: Comparison, answer: Answer) -> str:
    start, stop = answer.seconds
    points = found.points(answer)
    bar, number = ("", "") if points is None else (_bar(points / 100, kind), f"{points:.0f} %")
    when = f"{start:.1f}&nbsp;s to {stop:.1f}&nbsp;s"
    return f"<tr><th>{escape(title)}</th><td>{when}</td><td class='wide'>{bar}</td><td>{number}</td></tr>"


def _bar(share: float, kind: str) -> str:
    return f"<div class='bar'><i class='{kind}' style='width:{100 * share:.1f}%'></i></div>"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
