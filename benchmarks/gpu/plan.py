"""What `make bench-gpu` measures, and what happens to a point that does not fit the card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.cases import Case, Precision
from benchmarks.gpu.report import Value
from benchmarks.memory import LiveBytes
from benchmarks.timing import OUT_OF_MEMORY, free_memory

Found = tuple[str, Mapping[str, Value]]


@dataclass(frozen=True)
class Plan:
    """The points of a run.

    Args:
        model, tuner, full: overlays of a grounder, of null-space tuning and of full fine-tuning.
        precisions: of the parts `stages` and `memory`; all others compute in :attr:`main_precision`.
        lengths: T, the frames of a clip.
    """

    model: Path
    tuner: Path
    full: Path
    device: str
    precisions: tuple[Precision, ...]
    clips: int
    lengths: tuple[int, ...]
    height: int
    width: int
    repeats: int
    threads: int = 1

    @property
    def main_precision(self) -> Precision:
        """That of the overlays for cards, where it is among them."""
        return "bf16" if "bf16" in self.precisions else self.precisions[0]

    def case(self, precision: Precision, frames: int) -> Case:
        size = self.clips, frames, self.height, self.width
        return Case(self.model, self.tuner, self.device, precision, *size, self.repeats, self.threads)

    def cases(self, *precisions: Precision) -> list[Case]:
        """Of all lengths, in these precisions or in all."""
        return [self.case(precision, frames) for precision in precisions or self.precisions for frames in self.lengths]


def attempted(work: Callable[[], list[Found]], name: str, column: str) -> list[Found]:
    """The rows that ``work`` finds; one that says so, in a column, where the card has too little memory."""
    try:
        return work()
    except torch.OutOfMemoryError:
        found: list[Found] = [(name, {column: OUT_OF_MEMORY})]
    free_memory()
    return found


def peak_gib(work: Callable[[], object], device: str, held: Iterable[Tensor]) -> float:
    """GiB of the tensors alive at once while it runs, those that are ``held`` anyway included.

    Of a card, what its allocator says minus all that was there before and is not held.
    """
    tensors = {tensor.untyped_storage().data_ptr(): tensor for tensor in held}.values()
    size = sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    if device == "cpu":
        with LiveBytes() as counter:
            for tensor in tensors:
                counter.count(tensor)
            work()
        return counter.peak / 2**30
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before + size) / 2**30
