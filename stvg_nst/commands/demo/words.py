"""What two answers mean, in words and bars, as pieces of HTML."""

from __future__ import annotations

from html import escape
from pathlib import Path

from stvg_nst.commands.demo.comparison import Comparison
from stvg_nst.prediction import Answer
from stvg_nst.report.certificate import Certificate, OutputChange, load_certificate
from stvg_nst.results.run_folder import RunFile

NO_MODEL = (
    "<p class='note'><b>There is no tuned model here yet, so only the frozen one answers.</b> <code>make train</code> "
    "tunes one in a few minutes. Then start this page again: <code>make demo</code>. Other runs: "
    "<code>python -m stvg_nst demo FOLDER</code>.</p>"
)
READY = "<p>Above is the film as it is, and what is left of it. Ask both models: their answers appear here.</p>"
_SAME, _CLEAR = 0.995, 2.0  # vIoU above which answers count as one; points below which a change counts as none


def verdict(found: Comparison) -> str:
    """What tuning did to this clip: scores where the truth is known, how far the answers differ, and who gave them."""
    if found.tuned is None:
        return NO_MODEL
    rows = _score("Frozen model", "frozen", found, found.frozen) + _score("Tuned by NST", "tuned", found, found.tuned)
    return f"<h3>{escape(headline(found))}</h3><table class='scores'>{rows}</table><p>{escape(found.tuned.model)}</p>"


def headline(found: Comparison) -> str:
    """The finding in a sentence."""
    assert found.tuned is not None and found.agreement is not None
    before, after = found.points(found.frozen), found.points(found.tuned)
    if before is None or after is None:
        same = found.agreement >= _SAME
        words = "Both models answer the same." if same else f"The two answers overlap by {found.agreement:.0%}."
        return f"{words} The truth of your film is not known here."
    change = after - before
    if abs(change) < _CLEAR:
        did = "leaves this answer as good as it is"
    else:
        did = f"{'restores' if change > 0 else 'loses'} {abs(change):.0f} points here"
    return f"NST {did}: {before:.0f} % overlap with the truth before, {after:.0f} % after."


def _score(title: str, kind: str, found: Comparison, answer: Answer) -> str:
    start, stop = answer.seconds
    points = found.points(answer)
    bar = "" if points is None else _bar(points / 100, kind)
    number = "" if points is None else f"{points:.0f} %"
    when = f"{start:.1f} s to {stop:.1f} s"
    return f"<tr><th>{title}</th><td>{when}</td><td class='wide'>{bar}</td><td>{number}</td></tr>"


def meter(found: Comparison) -> str:
    """How degraded the router takes the clip to be, as a needle between clean and degraded."""
    if found.tuned is None or found.tuned.quality is None:
        return ""
    gate, threshold = found.tuned.quality, found.tuned.degraded_above
    judged = "degraded, and lets the restoring part work" if gate > threshold else "clean, and holds that part back"
    return (
        "<div class='meter'><b>The gate</b><span>clean</span>"
        f"<div class='scale' role='meter' aria-valuenow='{gate:.2f}' aria-valuemin='0' aria-valuemax='1'>"
        f"<i style='left:{100 * threshold:.1f}%' class='mark'></i><i style='left:{100 * gate:.1f}%' class='needle'></i>"
        f"</div><span>degraded</span><b>{gate:.2f}</b></div><p>The router takes this clip for {judged}.</p>"
    )


def promise(run: Path | None) -> str:
    """What is certain of the tuned model, from its certificate; how to get one where there is none."""
    if run is None:
        return ""
    path = run / RunFile.CERTIFICATE
    if not path.is_file():
        return (
            "<p class='note'><b>What is certain.</b> While the gate is shut, null-space tuning gives the frozen "
            f"model's answer. <code>python -m stvg_nst certify {escape(str(run))}</code> measures it here.</p>"
        )
    certificate = load_certificate(path)
    lines = "".join(f"<li>{escape(_change(change))}</li>" for change in certificate.changes if change.gate != "open")
    return f"<div class='note'><b>What is certain</b>, on {escape(_measured_on(certificate))}:<ul>{lines}</ul></div>"


def _measured_on(certificate: Certificate) -> str:
    return f"{certificate.dataset} {certificate.split}, with a {certificate.gate} gate"


def _change(change: OutputChange) -> str:
    gates = "With every gate shut" if change.gate == "closed" else "With its own gates"
    clips = {"HQ": "clean clips", "LQ": "degraded clips", "closed": "clips whose gates close"}[change.clips]
    if change.none:
        return f"{gates}, {change.count:,} {clips}: every answer is the frozen model's, to the bit ({change.standing})."
    return (
        f"{gates}, {change.count:,} {clips}: {change.tubes:,} answers differ from the frozen model's, "
        f"{change.spans:,} of them in time ({change.standing})."
    )


def _bar(share: float, kind: str) -> str:
    return f"<div class='bar'><i class='{kind}' style='width:{100 * share:.1f}%'></i></div>"
