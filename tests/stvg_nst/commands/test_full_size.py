"""The disk and the GPU that studies at full size need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stvg_nst.commands import full_size
from stvg_nst.commands.full_size import gpu_gib, needs_of
from stvg_nst.configuration import read_overlay
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


def test_frames_by_the_clock_are_counted_at_the_default_place_of_the_data() -> None:
    data = {"class_path": "datamodules.HCSTVG", "init_args": {"sampling": {"rate": 5.0, "at_most": 200}}}
    grounder = {"class_path": "stvg_nst.models.TubeDETR"}
    config = {"data": data, "model": {"grounder": grounder}, "trainer": {}}
    assert gpu_gib(config, trains=False) == pytest.approx(0.9 + 100 * 0.9 / 200)


@pytest.mark.parametrize(("data", "trained", "tested"), [("hcstvg_v1", "3.1", "1.4"), ("vidstg", "5.3", "1.8")])
def test_the_memory_of_a_tubedetr_is_its_own(
    monkeypatch: pytest.MonkeyPatch, data: str, trained: str, tested: str
) -> None:
    """Of clips of 100 frames on HC-STVG and 200 on VidSTG, two in a step and one in a test."""
    card(monkeypatch, 80)
    overlays = [read_overlay(Path(f"experiments/{name}.yaml")) for name in ("model/tubedetr", f"data/{data}_tubedetr")]
    batch = {"data": {"init_args": {"batch_size": 2}}}
    zero_shot, peers = (study.under([*overlays, batch]) for study in STUDIES)
    assert f"takes {trained} GiB" in [*needs_of([peers])][1].said, "in bfloat16 as in single precision"
    assert f"takes {tested} GiB" in [*needs_of([zero_shot])][1].said


def test_a_machine_without_a_gpu_or_without_room_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert needs()["GPU memory"].verdict == "lacking"
    assert "21.6 GB" in needs()["disk of the runs"].said, "of 18 runs"
    monkeypatch.setattr(full_size, "free_bytes", lambda folder: 10**9)
    assert needs()["disk of the runs"].verdict == "lacking"


def test_the_miniature_needs_neither() -> None:
    assert not [*needs_of(read_studies(Path("experiments/ablate/gate.yaml")))]
