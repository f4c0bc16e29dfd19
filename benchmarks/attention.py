"""How long attention takes: `make bench-attention`.

Two forms are compared in the box decoder: the sum of the scores by content and by position, as the decoder does it, and
the textbook form, which stores the features of both side by side for every token. Two are compared in the encoder under
bfloat16: PyTorch's kernel in bfloat16, and in single precision, as the encoder does it on a CPU. Times are CPU seconds
of this process on one thread. The two forms take turns, so their ratio within one run holds on a shared machine too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import timed
from stvg_nst.models.blocks.layers import attend
from stvg_nst.models.cgstvg.conditional import attend_conditionally

SHAPES = {
    "the miniature, 16 clips": (16, 16, 144, 96, 4),
    "full size, 1 clip": (1, 32, 550, 256, 8),
}
"""Clips, frames, tokens a frame, width, heads."""

Attend = Callable[..., Tensor]
"""Of the tensors to be attended: queries, keys, positions, values, in the order of each comparison."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, shape in SHAPES.items():
        compare_decoder(name, shape, options.repeats)
        compare_precisions(name, shape, options.repeats)


def compare_decoder(name: str, shape: tuple[int, int, int, int, int], repeats: int) -> None:
    """Prints what the two take in a forward pass alone, and in one with its backward pass."""
    clips, frames, tokens, width, heads = shape
    inputs = tuple(
        torch.randn(size, requires_grad=True)
        for size in (
            *((clips, frames, width),) * 2,
            (clips, frames, tokens, width),
            (clips, 1, tokens, width),
            (clips, frames, tokens, width),
        )
    )
    mask = torch.ones(clips, 1, tokens, dtype=torch.bool)
    ways: dict[str, Attend] = {"side by side": side_by_side(heads, mask), "summed": summed(heads, mask)}
    print(f"box decoder, {name}: {frames} frames of {tokens} tokens, width {width}, {heads} heads")
    print_times(ways, inputs, repeats)


def compare_precisions(name: str, shape: tuple[int, int, int, int, int], repeats: int) -> None:
    """Prints what self-attention over the tokens of a frame takes by the precision of its kernel."""
    clips, frames, tokens, width, heads = shape
    inputs = tuple(
        torch.randn(clips * frames, tokens, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
    )
    mask = torch.ones(clips * frames, tokens, dtype=torch.bool)

    def in_bfloat16(*inputs: Tensor) -> Tensor:
        query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in inputs)
        return F.scaled_dot_product_attention(query, key, value, mask[:, None, None]).transpose(1, 2).flatten(2)

    def in_single(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, num_heads=heads, mask=mask, dropout=0.0)

    print(f"encoder in bfloat16, {name}: {frames} frames of {tokens} tokens, width {width}, {heads} heads")
    print_times({"bfloat16": in_bfloat16, "single": in_single}, inputs, repeats)


def print_times(ways: Mapping[str, Attend], inputs: tuple[Tensor, ...], repeats: int) -> None:
    """What each of two ways takes, and how many times as long the first takes."""
    for stage, work in (("forward", forward), ("and backward", forward_and_backward)):
        timings = timed({way: work(attention, inputs) for way, attention in ways.items()}, repeats)
        seconds = {way: timing.median for way, timing in timings.items()}
        times = ", ".join(f"{way} {1e3 * seconds[way]:.1f} ms" for way in ways)
        slow, fast = (seconds[way] for way in ways)
        print(f"  {stage:12}  {times}: {slow / fast:.1f} times")


def side_by_side(heads: int, mask: Tensor) -> Attend:
    def pair(content: Tensor, position: Tensor) -> Tensor:
        return torch.cat([x.unflatten(-1, (heads, -1)) for x in (content, position)], dim=-1).flatten(-2)

    def attention(query: Tensor, query_position: Tensor, key: Tensor, key_position: Tensor, value: Tensor) -> Tensor:
        queries, keys = pair(query, query_position).unsqueeze(2), pair(key, key_position.expand_as(key))
        return attend(queries, keys, value, num_heads=heads, mask=mask, dropout=0.0).squeeze(2)

    return attention


def summed(heads: int, mask: Tensor) -> Attend:
    def attention(query: Tensor, query_position: Tensor, key: Tensor, key_position: Tensor, value: Tensor) -> Tensor:
        content, position = (query, key), (query_position, key_position)
        return attend_conditionally(content, position, value, num_heads=heads, mask=mask, dropout=0.0)

    return attention


def forward(attention: Attend, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def work() -> None:
        with torch.no_grad():
            attention(*inputs)

    return work


def forward_and_backward(attention: Attend, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def work() -> None:
        torch.autograd.grad(attention(*inputs).sum(), inputs)

    return work


if __name__ == "__main__":
    main()
