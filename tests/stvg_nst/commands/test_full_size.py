"""The disk and the GPU that studies at full size need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stvg_nst.commands import full_size
from stvg_nst.commands.full_size import needs_of
from stvg_nst.machine.health import Finding
from stvg_nst.study import read_studies

STUDIES = [read_studies(Path(f"experiments/paper/vidstg/{name}.yaml"))[0] for name in ("zero_shot", "peers")]
CARD = Path("experiments/hardware/h100_80gb.yaml")


def needs(*hardware: Path) -> dict[str, Finding]:
    return {finding.about: finding for finding in needs_of(STUDIES, hardware)}


def card(monkeypatch: pytest.MonkeyPatch, gib: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (0, gib * 2**30))


def test_memory_follows_precision_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    card(monkeypatch, 24)
    assert "7.1 GiB" in needs()["GPU memory"].said, "bfloat16, two clips a step"
    assert needs()["GPU memory"].verdict == "ok"
    found = needs(CARD)["GPU memory"]
    assert "49.1 GiB" in found.said and "there are 24" in found.said and found.verdict == "lacking"
    assert [f.said for f in needs_of(STUDIES[:1])][1].startswith("a step or a test takes 2.9 GiB"), (
        "in single precision"
    )
    card(monkeypatch, 80)
    assert needs(CARD)["GPU memory"].verdict == "ok"


def test_a_machine_without_a_gpu_or_without_room_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert needs()["GPU memory"].verdict == "lacking"
    assert "21.6 GB" in needs()["disk of the runs"].said, "of 18 runs"
    monkeypatch.setattr(full_size, "free_bytes", lambda folder: 10**9)
    assert needs()["disk of the runs"].verdict == "lacking"


def test_the_miniature_needs_neither() -> None:
    assert not [*needs_of(read_studies(Path("experiments/ablate/gate.yaml")))]
