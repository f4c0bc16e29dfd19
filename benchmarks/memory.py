"""The memory of a computation: the bytes of the tensors that are alive at once.

The budget counts them on tensors without values, for clips of 8 and of 16 frames, and extrapolates to longer ones.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.cases import QUERY, Case, batch_of, build, precision_of
from benchmarks.tuning import total
from stvg_nst.models.base import Grounder
from stvg_nst.models.cgstvg import windows
from stvg_nst.tuning import NullSpaceTuning
from stvg_nst.types import BackboneFeatures

KINDS = "inference", "tuning"
COUNTED = 8, 16  # frames; from 8 on, a window of the video encoder is full


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make and that are alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self.count(value)
        return result

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known.add(storage)
            weakref.finalize(storage, self._release, storage.nbytes())
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)

    def restart(self) -> int:
        """The peak so far; from here on, a new one is looked for."""
        peak, self.peak = self.peak, self.live
        return peak

    def _release(self, size: int) -> None:
        self.live -= size


def live_bytes(case: Case) -> dict[tuple[str, int], int]:
    """The most bytes of tensors alive at once, weights and frames included: by what is done, and the clip's length."""
    windows._PIECE.clear()  # a card works on more windows at a time
    grounder, nst = build(case)
    nst.inject(grounder)
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        forget_values(grounder, fake)
        return {
            (kind, length): peak
            for length in COUNTED
            for kind, peak in zip(KINDS, live(replace(case, frames=length), grounder, nst), strict=True)
        }


def forget_values(grounder: Grounder, fake: FakeTensorMode) -> None:
    """Leaves shapes without values: operations on them take no time, and all that they make is counted."""
    for module in grounder.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = fake.from_tensor(parameter.detach())
            module.register_parameter(name, nn.Parameter(empty, requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, fake.from_tensor(buffer))


def live(case: Case, grounder: Grounder, nst: NullSpaceTuning) -> tuple[int, int]:
    """In inference and in a step of tuning."""
    frames, mask = batch_of(case)
    with LiveBytes() as counter:
        for tensor in (*grounder.state_dict().values(), frames):
            counter.count(tensor)
        with torch.no_grad(), precision_of(case):
            maps = [encoder(frames) for encoder in grounder.backbones()]
        features = BackboneFeatures.of(*maps, cell_mask=torch.ones(1, *maps[0].shape[-2:], dtype=torch.bool))
        encoding = counter.restart()
        with torch.no_grad(), precision_of(case):
            grounder.ground(features, mask, [QUERY])
        inference = counter.restart()
        nst.set_training(grounder, True)
        trained = nst.trainable_parameters(grounder)
        moments = [torch.zeros_like(parameter) for parameter in trained for _ in range(2)]  # AdamW's
        with precision_of(case):
            output = grounder.ground(features, mask, [QUERY])
            # Not the auxiliary losses: they pick clips by labels, which have no values here. They are of few numbers.
            total(output).backward()
        nst.set_training(grounder, False)
        grounder.zero_grad()
        assert moments
        return max(encoding, inference), max(encoding, counter.peak)


def need(live: dict[tuple[str, int], int], kind: str, length: int) -> tuple[float, float]:
    """GiB that any number of clips needs, and that each adds."""
    short, long = COUNTED
    frame = (live[kind, long] - live[kind, short]) / (long - short)
    return (live[kind, short] - short * frame) / 2**30, length * frame / 2**30
