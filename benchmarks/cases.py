"""A case of a benchmark: the grounder's overlay, the size of a batch, the precision and the device."""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from stvg_nst.configuration import merge, read_overlay
from stvg_nst.models.base import Grounder
from stvg_nst.models.blocks.vocabulary import write_stand_in
from stvg_nst.tuning import NullSpaceTuning, Tuner

QUERY = "what does the large red square in the video jump over ?"
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "tf32", "bf16", "fp16")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Case:
    """What to run, and on what.

    Args:
        model, tuner: overlays of a grounder and of null-space tuning.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` as it is; ``tf32``, in which a card's units for matrices round its products and
            convolutions; ``bf16`` or ``fp16`` under autocast.
        clips, frames, height, width: of a batch.
    """

    model: Path
    tuner: Path
    device: str
    precision: Precision
    clips: int
    frames: int
    height: int
    width: int
    repeats: int
    threads: int

    @property
    def title(self) -> str:
        return f"{self.clips} x {self.frames} x {self.height} x {self.width}, {self.precision}"


def with_stand_in_text(model: Path, folder: Path) -> Path:
    """The overlay with a text encoder of the same size from a folder, where it would come from the hub."""
    content = yaml.safe_load(model.read_text())
    text = content["model"]["grounder"]["init_args"]["text"]["init_args"]
    if Path(text["source"]).is_dir():
        return model
    write_stand_in([QUERY], folder)
    text["source"] = str(folder)
    changed = folder / "model.yaml"
    changed.write_text(yaml.safe_dump(content))
    return changed


def with_scope(tuner: Path, scope: Path | None, folder: Path) -> Path:
    """The tuner's overlay with the targets of an overlay of experiments/scope, if any, written into a folder."""
    if scope is None:
        return tuner
    changed = folder / "tuner.yaml"
    changed.write_text(yaml.safe_dump(merge(read_overlay(tuner), read_overlay(scope))))
    return changed


def build(case: Case) -> tuple[Grounder, NullSpaceTuning]:
    """On the CPU, in evaluation mode, without an adapter; the weights are random, which costs the same."""
    torch.set_num_threads(case.threads)
    torch.manual_seed(0)
    return build_parts(case.model, case.tuner)


def build_parts(model: Path, tuner: Path) -> tuple[Grounder, NullSpaceTuning]:
    """The grounder and the tuner that two overlays describe."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Grounder, "grounder")
    parser.add_subclass_arguments(Tuner, "tuner")
    parts: dict[str, Any] = {
        "grounder": yaml.safe_load(model.read_text())["model"]["grounder"],
        "tuner": yaml.safe_load(tuner.read_text())["model"]["tuner"],
    }
    built = parser.instantiate(parser.parse_object(parts))
    if not isinstance(built.tuner, NullSpaceTuning):
        raise SystemExit(f"expected an overlay of NullSpaceTuning in {tuner}, got {type(built.tuner).__name__}")
    return built.grounder.eval(), replace(built.tuner, spaces=None)  # random weights are not worth keeping


def without_backbones(grounder: Grounder) -> Grounder:
    """A copy whose visual encoders are left out: rows that are compared see the same features."""
    return copy.deepcopy(grounder, {id(part): nn.Identity() for part in grounder.backbones()})


def batch_of(case: Case) -> tuple[Tensor, Tensor]:
    """Frames (B, T, 3, H, W) and their mask (B, T)."""
    frames = torch.randn(case.clips, case.frames, 3, case.height, case.width, device=case.device)
    return frames, torch.ones(frames.shape[:2], dtype=torch.bool, device=case.device)


@contextmanager
def precision_of(case: Case) -> Iterator[None]:
    """Computes as the case says; outside, nothing has changed."""
    settings = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32" if case.precision == "tf32" else "ieee"
    try:
        with torch.autocast(case.device, dtype=HALF.get(case.precision), enabled=case.precision in HALF):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def machine_of(device: str) -> str:
    """The card, or the processor and its cores."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {os.cpu_count()} {platform.machine()} cores"
