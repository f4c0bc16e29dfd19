"""The disk and the GPU that studies at full size need: computed, and held against what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from pathlib import Path

import torch

from datamodules.sampling import FramesByClock
from stvg_nst.commands.data_options import data_module_class
from stvg_nst.configuration import Config, merge, read_overlay
from stvg_nst.machine.disk_room import free_bytes, room_words
from stvg_nst.machine.health import Finding
from stvg_nst.study import Study

BYTES_OF_A_RUN = 1.2e9
"""What a tuned run leaves at most: two checkpoints of full fine-tuning, 34.9 million weights with two moments each in
single precision (docs/performance.md), the adapter, and the tubes of VidSTG's test."""
_FULL_SIZE = "resnet101"
_FRAMES = 64  # of a clip as CG-STVG is shown it


@dataclass(frozen=True, slots=True)
class _Memory:
    """GiB of a GPU that any number of clips takes, and that a frame of a clip adds in a step and in a test."""

    fixed: float
    in_a_step: float
    in_a_test: float


# By the network's class, in single precision and in half of it. Computed by `python -m benchmarks.model --only budget`
# (docs/performance.md), and for TubeDETR `--model experiments/model/tubedetr.yaml --scope
# experiments/scope/tubedetr/encoder_all.yaml --budget-size 352 587 --budget-frames 200`. In half precision
# that counts too much for a card, and no number of its own is given: it takes no more than in single precision.
_NEEDS: Mapping[str, tuple[_Memory, _Memory]] = {
    "CGSTVG": (_Memory(1.3, 4.9 / _FRAMES, 1.6 / _FRAMES), _Memory(1.1, 3.0 / _FRAMES, 0.9 / _FRAMES)),
    "TubeDETR": (_Memory(0.9, 2.2 / 200, 0.9 / 200),) * 2,
}


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
    """What a batch of clips takes that a network at full size is shown, in training or in a test, in GiB."""
    options, frames = config["data"].get("init_args", {}), _frames_of_a_clip(config["data"])
    single, half = _NEEDS[_network(config)]
    memory = single if config["trainer"].get("precision", "32-true").startswith("32") else half
    in_a_step = memory.in_a_step * options.get("batch_size", 2) if trains else 0.0
    return memory.fixed + frames * max(in_a_step, memory.in_a_test * options.get("eval_batch_size", 1))


def _frames_of_a_clip(data: Config) -> int:
    """That a network is shown of a clip at most."""
    options = data.get("init_args", {})
    if options.get("sampling") is None:
        return _FRAMES
    by_clock = FramesByClock(**options["sampling"])
    kind = data_module_class(data["class_path"])
    seconds = options.get("longest_clip", kind(root=Path(options.get("root", kind.root))).clip_seconds)
    return min(by_clock.at_most, ceil(by_clock.rate * seconds))


def _network(config: Config) -> str:
    """The class of a configuration's network, empty where it names none."""
    return str(config.get("model", {}).get("grounder", {}).get("class_path", "")).rpartition(".")[2]


def _is_full_size(study: Study) -> bool:
    grounder = study.baseline.get("model", {}).get("grounder", {}).get("init_args", {})
    visual = grounder.get("visual", {}).get("init_args", {})
    return _network(study.baseline) in _NEEDS and visual.get("name") == _FULL_SIZE
