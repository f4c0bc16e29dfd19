"""The stages of a grounder: seconds, operations and parameters of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.cases import QUERY, Case
from benchmarks.timing import Moment, Timing, between, now
from benchmarks.work import Work, WorkCounter
from stvg_nst.models.base import Grounder

MODULES = {"ResNet": "visual", "VidSwin": "motion", "text": "text", "encoder": "encoder"}
VISUAL = "ResNet", "VidSwin"
DECODERS = "decoders"  # what follows the encoder, and the projections ahead of it


def stage_modules(grounder: nn.Module) -> dict[str, nn.Module]:
    """Of each stage that is a module; TubeDETR has no video encoder."""
    return {name: grounder.get_submodule(path) for name, path in MODULES.items() if hasattr(grounder, path)}


def stages_of(grounder: nn.Module) -> tuple[str, ...]:
    """The names of all stages, in the order in which they run."""
    return (*stage_modules(grounder), DECODERS)


@contextmanager
def watched(grounder: Grounder, enter: Callable[[str], None], leave: Callable[[str], None]) -> Iterator[None]:
    """Calls with the stage's name at the beginning and at the end of each stage that is a module."""
    hooks = []
    for name, module in stage_modules(grounder).items():
        hooks += [
            module.register_forward_pre_hook(partial(_say, enter, name)),
            module.register_forward_hook(partial(_say, leave, name)),
        ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _say(listener: Callable[[str], None], name: str, *_: object) -> None:
    listener(name)


def stage_timings(
    case: Case, grounder: Grounder, frames: Tensor, mask: Tensor, *, warm_up: int = 1
) -> dict[str, Timing]:
    """Of the frozen model, and of ``all`` from the frames to the answers; in the precision that surrounds the call."""
    rounds: dict[str, list[float]] = {name: [] for name in (*stages_of(grounder), "all")}
    for turn in range(warm_up + case.repeats):
        starts: dict[str, Moment] = {}
        stops: dict[str, Moment] = {}
        with (
            torch.inference_mode(),
            watched(
                grounder,
                lambda name, starts=starts: starts.__setitem__(name, now(case.device)),
                lambda name, stops=stops: stops.__setitem__(name, now(case.device)),
            ),
        ):
            begin = now(case.device)
            features = grounder.encode(frames, mask, [frames.shape[-2:]] * len(frames))
            ground = now(case.device)
            grounder.ground(features, mask, [QUERY] * case.clips)
            end = now(case.device)
        seconds = {name: between(starts[name], stops[name]) for name in stage_modules(grounder)}
        seconds[DECODERS] = between(ground, end) - seconds["text"] - seconds["encoder"]
        seconds["all"] = between(begin, end)
        for name, values in rounds.items():
            values.extend([seconds[name]] if turn >= warm_up else [])
    return {name: Timing(tuple(values)) for name, values in rounds.items()}


@torch.no_grad()
def stage_work(grounder: Grounder, frames: Tensor, mask: Tensor) -> dict[str, Work]:
    """What each stage computes of a batch, in the precision that surrounds the call."""
    counter = WorkCounter()

    def enter(name: str) -> None:
        counter.stage = name

    def leave(_: str) -> None:
        counter.stage = DECODERS

    with watched(grounder, enter, leave), counter:
        grounder(frames, mask, [QUERY] * len(frames))
    return {name: counter.work[name] for name in stages_of(grounder)}


def parameters(grounder: nn.Module) -> dict[str, int]:
    """Numbers of them by stage."""
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in stage_modules(grounder).items()}
    return counts | {DECODERS: sum(p.numel() for p in grounder.parameters()) - sum(counts.values())}
