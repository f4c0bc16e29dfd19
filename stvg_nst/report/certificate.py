"""The certificate of a null-space tuned model: what it says, and how it is shown.

It is measured in ``stvg_nst/tuning/nst/certify.py``; nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from stvg_nst.report.sheet import Cell, Row, Section, Sheet
from stvg_nst.results.run_folder import RunFile
from stvg_nst.study.weights_sum import is_same

SCHEMA = 1

Standing = Literal["guarantee", "bound", "observation"]
"""What a number is worth.

``guarantee``: zero by construction, on any clip and after any training; the measurement only checks it.

``bound``: each layer passes at most its worst leak, and rounding, on any clip; what that does to the whole model is
observed.

``observation``: what the router did on these clips; other clips may fare otherwise.
"""

MEANINGS: Mapping[Standing, str] = {
    "guarantee": "zero by construction, on any clip and after any training; the numbers here only check it",
    "bound": "no layer passes more of its null branch than its worst leak and rounding, on any clip; what that does to "
    "the answers is observed",
    "observation": "what the gates let happen on these clips; other clips may fare otherwise",
}


@dataclass(frozen=True, slots=True)
class LayerCertificate:
    """What a wrapped layer lets through of its own null branch, when the gate sends everything there (g = 0).

    A leak is the largest norm of ``f(x + dX_null) - f(x)`` over all real tokens, as a share of the root mean square of
    the outputs' norms. In a layer without a null branch leaks, worst and size are None; so is a leak that overflows.

    Args:
        name: qualified name in the model.
        shape: (d_out, d_in) of the frozen weight W.
        rank, nullity: dimensions of the row and the null space of W.
        sigma_next: ``sigma_{rank + 1}``, the most of a unit vector of the null space that W passes, by float64 algebra.
        worst: the most of a unit residual of the null branch that W passes, for the basis as it is stored; it is
            ``sigma_next`` but for the basis's own rounding, and says what the controls' random directions pass.
        size: root mean square of ``norm(dX_null)`` over that of ``norm(x)``.
        literal: leak by precision, when ``dX_null`` is added to x and the sum goes through W, both rounded to it.
        separate: leak in single precision when the image of ``dX_null`` is added to the output, as the model runs.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    nullity: int
    sigma_next: float
    worst: float | None
    size: float | None
    literal: Mapping[str, float | None]
    separate: float | None

    @property
    def rank_ratio(self) -> float:
        """``rank / d_in``, the share of the input's directions that the layer sees."""
        return self.rank / self.shape[1]


@dataclass(frozen=True, slots=True)
class HQNullCertificate:
    """What a row branch that reads the HQ null space of its input (``row_input: hq_null``) is shown, and what it adds.

    The numbers are of the frozen model's inputs, and ``None`` where there was no clip of that quality.

    Args:
        name: qualified name of the layer in the model.
        inputs, directions: d_in, and how many of these dimensions the HQ null space has.
        clips: clean clips of the tuning set that it was measured on.
        hq_passed, lq_passed: share of the energy of the layer's input that lies in it, on clips of that quality.
        hq_added, lq_added: what the row branch adds to the output under an open gate (g = 1): root mean square over
            that of the output.
    """

    name: str
    inputs: int
    directions: int
    clips: int
    hq_passed: float | None
    lq_passed: float | None
    hq_added: float | None
    lq_added: float | None


@dataclass(frozen=True, slots=True)
class OutputChange:
    """By how much the tuned model's answers differ from the frozen model's: largest absolute changes, real frames only.

    Args:
        gate: ``closed`` or ``open`` (g = 0 or 1 in every layer, forced), or ``own`` (as the model runs).
        clips: ``HQ``, ``LQ``, or ``closed``: those that the model's own gates, in every layer, close on.
        count: number of clips.
        standing: what the numbers are worth.
        boxes: in units of the frame, cxcywh.
        confidence: in (0, 2); ``None`` where the model says none.
        start_end, actioness: of the logits; actioness is ``None`` where the model says none.
        tubes: clips whose decoded tube differs in any frame or coordinate.
        spans: clips, among these, whose tube covers other frames.
    """

    gate: Literal["closed", "own", "open"]
    clips: Literal["HQ", "LQ", "closed"]
    count: int
    standing: Standing
    boxes: float
    confidence: float | None
    start_end: float
    actioness: float | None
    tubes: int
    spans: int

    @property
    def none(self) -> bool:
        """Whether no answer differs by a bit."""
        return not (self.boxes or self.confidence or self.start_end or self.actioness or self.tubes)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Everything that ``certify`` measured of one run.

    Args:
        run: its folder.
        adapter: SHA-256 of its adapter's file.
        gate, forward_mode, basis: the tuner's options.
        dataset, split: what it was measured on.
        data: provenance of the pixels.
        left_out: samples of the split that were not looked at.
        device: where it was measured.
        layers: the wrapped layers, in the model's order.
        changes: of the whole model's answers.
        hq_null: of the layers whose row branch reads the HQ null space of its input.
    """

    run: str
    adapter: str
    gate: str
    forward_mode: str
    basis: str
    dataset: str
    split: str
    data: Mapping[str, Any]
    left_out: int
    device: str
    layers: tuple[LayerCertificate, ...]
    changes: tuple[OutputChange, ...]
    hq_null: tuple[HQNullCertificate, ...] = ()

    @property
    def broken(self) -> tuple[OutputChange, ...]:
        """Guarantees that the measurement contradicts: there is a bug where this is not empty."""
        return tuple(change for change in self.changes if change.standing == "guarantee" and not change.none)


def to_json(certificate: Certificate) -> str:
    """The certificate as it is stored."""
    return json.dumps({"schema": SCHEMA, **asdict(certificate)}, indent=1, allow_nan=False) + "\n"


def certificate_of(run: Path, adapter: Path) -> Certificate | None:
    """The certificate in a run's folder; ``None`` where there is none.

    Args:
        adapter: that it is to be of; where that is not there any more, nothing is compared.

    Raises:
        ValueError: it is of another adapter, or no certificate that can be shown.
        OSError: it cannot be read.
    """
    path = run / RunFile.CERTIFICATE
    if not path.is_file():
        return None
    certificate = load_certificate(path)
    if adapter.is_file() and not is_same(adapter, certificate.adapter):
        raise ValueError(
            f"'{path}' is of another adapter than '{adapter}'; certify the run again with --overwrite, or delete the "
            "certificate"
        )
    return certificate


def load_certificate(path: Path) -> Certificate:
    """The certificate that :func:`to_json` stored.

    Raises:
        ValueError: the file holds none, or one of another schema.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if content.pop("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        layers = tuple(LayerCertificate(**{**layer, "shape": tuple(layer["shape"])}) for layer in content["layers"])
        changes = tuple(OutputChange(**change) for change in content["changes"])
        # Certificates from before there was such a null space have none.
        hq_null = tuple(HQNullCertificate(**layer) for layer in content.get("hq_null", ()))
        return Certificate(**content | {"layers": layers, "changes": changes, "hq_null": hq_null})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: is no certificate that can be shown ({error}); certify the run again") from error


def certificate_sheet(certificate: Certificate) -> Sheet:
    """Each layer's own leak, the whole model's answers, and what the words in these tables mean."""
    layers = Section(
        f"{certificate.run}: each layer's own null branch",
        LAYER_HEADER,
        tuple(_layer_row(layer) for layer in certificate.layers),
        labels=1,
    )
    changes = Section(
        f"{certificate.run}: answers that differ from the frozen model's, {certificate.dataset} {certificate.split}",
        CHANGE_HEADER,
        tuple(_change_row(change, certificate) for change in certificate.changes),
        labels=1,
    )
    hq_null = Section(
        f"{certificate.run}: what row branches see of clean and degraded clips, and add under an open gate",
        HQ_NULL_HEADER,
        tuple(_hq_null_row(layer) for layer in certificate.hq_null),
        labels=1,
    )
    return Sheet(
        "", (layers, hq_null, changes) if certificate.hq_null else (layers, changes), tuple(_notes(certificate))
    )


LAYER_HEADER = (
    "layer",
    "weight",
    "rank",
    "nullity",
    "rank ratio",
    "sigma r+1",
    "worst leak",
    "|dX| / |x|",
    "fp32",
    "bf16",
    "fp16",
    "separate",
)
HQ_NULL_HEADER = (
    "layer",
    "inputs",
    "HQ null",
    "clean clips",
    "HQ passed",
    "LQ passed",
    "HQ added",
    "LQ added",
)
CHANGE_HEADER = (
    "gate",
    "clips",
    "number",
    "boxes",
    "confidence",
    "start, end",
    "actioness",
    "tubes",
    "spans",
    "standing",
)


def _layer_row(layer: LayerCertificate) -> Row:
    measured = (layer.worst, layer.size, *layer.literal.values(), layer.separate)
    missing = "-" if layer.size is None else "overflow"
    texts = (
        layer.name,
        "{} x {}".format(*layer.shape),
        str(layer.rank),
        str(layer.nullity),
        f"{layer.rank_ratio:.2f}",
        _number(layer.sigma_next),
        *(missing if value is None else _number(value) for value in measured),
    )
    return tuple(map(Cell, texts))


def _hq_null_row(layer: HQNullCertificate) -> Row:
    counts = (layer.inputs, layer.directions, layer.clips)
    shares = (layer.hq_passed, layer.lq_passed, layer.hq_added, layer.lq_added)
    return tuple(
        map(Cell, (layer.name, *map(str, counts), *("-" if s is None else f"{100 * s:.2f} %" for s in shares)))
    )


def _change_row(change: OutputChange, certificate: Certificate) -> Row:
    broken = change in certificate.broken
    texts = (
        f"its own, {certificate.gate}" if change.gate == "own" else change.gate,
        "gate closed" if change.clips == "closed" else change.clips,
        str(change.count),
        *(_number(value) for value in (change.boxes, change.confidence, change.start_end, change.actioness)),
        str(change.tubes),
        str(change.spans),
        f"{change.standing} BROKEN" if broken else change.standing,
    )
    return tuple(Cell(text, warns=broken) for text in texts)


def _number(value: float | None) -> str:
    """Two digits, 0 only for zero, and a dash for what the model does not say."""
    if value is None:
        return "-"
    return f"{value:.1e}" if value else "0"


def _notes(certificate: Certificate) -> Iterator[str]:
    for standing, meaning in MEANINGS.items():
        if any(change.standing == standing for change in certificate.changes):
            yield f"{standing}: {meaning}"
    if certificate.forward_mode == "literal":
        yield "forward_mode is literal: the residual is added to the input, and rounding lets the null branch through"
    if certificate.hq_null:
        yield (
            "passed: share of the energy of a layer's input that its row branch is shown; on the tuning set's clean "
            "clips the bound of hq_energy holds, on these clips it is an observation"
        )
    if certificate.left_out:
        yield f"{certificate.left_out} samples of {certificate.split} were not looked at; guarantees cover them too"
    for change in certificate.broken:
        yield (
            f"BROKEN: on {change.clips} clips under gate '{change.gate}' the answers must equal the frozen model's and "
            "do not; the code that ran has a bug: trust nothing of this run before it is found"
        )
