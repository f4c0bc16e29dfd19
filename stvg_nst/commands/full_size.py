"""The disk and the GPU that studies at full size need: computed, and held against what there is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path

import torch

from datamodules.caches.disk_room import free_bytes, room_words
from stvg_nst.configuration import Config, merge, read_overlay
from stvg_nst.machine.health import Finding
from stvg_nst.study import Study

BYTES_OF_A_RUN = 1.2e9
"""What a tuned run leaves at most: two checkpoints of full fine-tuning, 34.9 million weights with two moments each in
single precision (docs/performance.md), the adapter, and the tubes of VidSTG's test."""
# GiB of a GPU in single precision and in half of it, and of a clip of 64 frames of 420 x 588 in a step and in a test.
# Computed: `python -m benchmarks.model --only budget`, docs/performance.md.
_SINGLE, _HALF = (1.3, 4.9, 1.6), (1.1, 3.0, 0.9)
_FULL_SIZE = "resnet101"


def needs_of(studies: Sequence[Study], hardware: Sequence[Path] = ()) -> Iterator[Finding]:
    """What studies at full size need, beside what there is; nothing of smaller ones.

    Args:
        hardware: overlays over all runs, which say how many clips a batch has.
    """
    full = [study for study in studies if _is_full_size(study)]
    if not full:
        return
    needed, folder = sum(len(study.points) * len(study.seeds) for study in full) * BYTES_OF_A_RUN, Path.cwd()
    said = f"the runs take up to {room_words(int(needed), folder)}"
    short = free_bytes(folder) < needed
    advice = "free some, or link the folder of the runs to another disk" if short else ""
    yield Finding("disk of the runs", said, "lacking" if short else "ok", advice)
    overlays = [read_overlay(path) for path in hardware]
    gib = max(gpu_gib(reduce(merge, overlays, study.baseline), trains=bool(study.points)) for study in full)
    said = f"a step or a test takes {gib:.1f} GiB of a GPU (computed, not measured)"
    cards = [torch.cuda.mem_get_info(index)[1] / 2**30 for index in range(torch.cuda.device_count())]
    if not cards:
        yield Finding("GPU memory", f"{said}, and there is none", "lacking", "run them where there is one")
    elif min(cards) < gib:
        advice = "take an overlay of experiments/hardware/ for a smaller card"
        yield Finding("GPU memory", f"{said}, and there are {min(cards):.0f}", "lacking", advice)
    else:
        yield Finding("GPU memory", f"{said}, and there are {min(cards):.0f}")


def gpu_gib(config: Config, *, trains: bool) -> float:
    """What a batch of clips at full size takes, in training or in a test, in GiB."""
    options = config["data"].get("init_args", {})
    fixed, tuned, shown = _SINGLE if config["trainer"].get("precision", "32-true").startswith("32") else _HALF
    in_a_step = tuned * options.get("batch_size", 2) if trains else 0.0
    return fixed + max(in_a_step, shown * options.get("eval_batch_size", 1))


def _is_full_size(study: Study) -> bool:
    grounder = study.baseline.get("model", {}).get("grounder", {}).get("init_args", {})
    return grounder.get("visual", {}).get("init_args", {}).get("name") == _FULL_SIZE
