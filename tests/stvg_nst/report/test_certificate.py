from __future__ import annotations

import json
import re
from dataclasses import replace

from stvg_nst.report.certificate import (
    Certificate,
    HQNullCertificate,
    LayerCertificate,
    OutputChange,
    certificate_sheet,
    load_certificate,
    to_json,
)
from stvg_nst.report.sheet import print_sheet, sheet_console, sheet_markdown

NAME = "box_decoder.layers.0.sa_q_position_proj"
CERTIFICATE = Certificate(
    run="runs/nst",
    adapter="ab" * 32,
    gate="soft",
    forward_mode="separate",
    basis="svd",
    dataset="MiniSTVG",
    split="val",
    data={"benchmark_seed": 0},
    left_out=12,
    device="cpu",
    layers=(
        LayerCertificate("head", (4, 96), 4, 92, 6e-16, 2e-8, 0.41, {"fp32": 4.6e-7, "bf16": 1e-2, "fp16": None}, 0.0),
        LayerCertificate(NAME, (96, 96), 96, 0, 0.0, None, None, {"fp32": None, "bf16": None, "fp16": None}, None),
    ),
    changes=(
        OutputChange("closed", "HQ", 16, "guarantee", 0.0, 0.0, 0.0, 0.0, 0, 0),
        OutputChange("own", "HQ", 16, "observation", 0.031, 0.87, 0.67, 1.4, 9, 3),
    ),
)


def show(certificate: Certificate) -> None:
    print_sheet(certificate_sheet(certificate), sheet_console())


def test_the_table_shows_every_number_on_one_line(capsys):
    show(CERTIFICATE)
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.strip()}
    assert rows["head"] == "4 x 96 4 92 0.04 6.0e-16 2.0e-08 4.1e-01 4.6e-07 1.0e-02 overflow 0"
    assert rows[NAME] == "96 x 96 96 0 1.00 0 - - - - - -"
    assert rows["closed"] == "HQ 16 0 0 0 0 0 0 guarantee"
    assert rows["its"] == "own, soft HQ 16 3.1e-02 8.7e-01 6.7e-01 1.4e+00 9 3 observation"


def test_notes_explain_the_standings_in_use_and_no_other(capsys):
    show(CERTIFICATE)
    text = capsys.readouterr().out
    assert "differ from the frozen model's, MiniSTVG val" in text
    assert "note: guarantee: zero by construction" in text and "note: observation: what the gates" in text
    assert "bound:" not in text and "literal" not in text and "BROKEN" not in text
    assert "12 samples of val were not looked at" in text
    show(replace(CERTIFICATE, forward_mode="literal", left_out=0))
    text = capsys.readouterr().out
    assert "forward_mode is literal" in text and "not looked at" not in text


def test_a_guarantee_that_fails_is_called_broken(capsys):
    broken = replace(CERTIFICATE.changes[0], tubes=1)
    certificate = replace(CERTIFICATE, changes=(broken, CERTIFICATE.changes[1]))
    assert certificate.broken == (broken,)
    assert CERTIFICATE.broken == ()
    show(certificate)
    text = capsys.readouterr().out
    assert "guarantee BROKEN" in text and "BROKEN: on HQ clips under gate 'closed' the answers must equal" in text


def test_markdown_has_whole_rows():
    lines = sheet_markdown(certificate_sheet(CERTIFICATE)).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in tables]
    assert widths == [13] * 4 + [11] * 4
    assert "* guarantee: zero by construction" in "\n".join(lines)


def test_json_keeps_every_number():
    content = json.loads(to_json(CERTIFICATE))
    assert content["schema"] == 1
    assert [LayerCertificate(**{**layer, "shape": tuple(layer["shape"])}) for layer in content["layers"]] == [
        *CERTIFICATE.layers
    ]
    assert [OutputChange(**change) for change in content["changes"]] == [*CERTIFICATE.changes]


def test_what_a_row_branch_sees_of_clean_clips_has_a_table_where_it_is_measured(capsys, tmp_path):
    show(CERTIFICATE)
    assert "HQ passed" not in capsys.readouterr().out
    layer = HQNullCertificate("head", 96, 44, 64, 0.0123, None, 0.004, None)
    opened = OutputChange("open", "HQ", 16, "observation", 0.01, 0.1, 0.2, 0.3, 2, 1)
    certificate = replace(CERTIFICATE, hq_null=(layer,), changes=(*CERTIFICATE.changes, opened))
    show(certificate)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "head 96 44 64 1.23 % - 0.40 % -" in rows
    assert "open HQ 16 1.0e-02 1.0e-01 2.0e-01 3.0e-01 2 1 observation" in rows
    assert any("note: passed: share of the energy" in row for row in rows)
    (tmp_path / "certificate.json").write_text(to_json(certificate))
    assert load_certificate(tmp_path / "certificate.json") == certificate


def test_a_certificate_from_before_there_were_hq_null_spaces_is_read(tmp_path):
    content = json.loads(to_json(CERTIFICATE))
    del content["hq_null"]
    (tmp_path / "certificate.json").write_text(json.dumps(content))
    assert load_certificate(tmp_path / "certificate.json") == CERTIFICATE
