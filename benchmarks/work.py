"""What a computation is made of: its operations, and the bytes that they read and write."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# PyTorch's own counter does not know the CPU's fused attention.
COUNTED = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
}
UNTOUCHED = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided, aten.detach}


@dataclass(frozen=True, slots=True)
class Layout:
    """A tensor without its values."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on tensors of some layouts.

    Args:
        flops: additions and multiplications, 0 where it is neither a product nor a convolution nor an attention.
        traffic: bytes, each input read once and each output written once.
    """

    operation: OpOverload
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    flops: int
    traffic: int


@dataclass
class Work:
    """The calls of a stage, and how often each is made."""

    calls: Counter[Call] = field(default_factory=Counter)

    @property
    def flops(self) -> int:
        return sum(call.flops * times for call, times in self.calls.items())

    @property
    def traffic(self) -> int:
        return sum(call.traffic * times for call, times in self.calls.items())


class WorkCounter(TorchDispatchMode):
    """Writes down all that is computed, by the stage that it is told; without gradients.

    Use ``torch.no_grad``: under ``torch.inference_mode`` operations arrive before they are taken apart.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage = ""
        self.work: defaultdict[str, Work] = defaultdict(Work)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        packet = getattr(function, "_overloadpacket", None)
        if isinstance(function, OpOverload) and not function.is_view and packet not in UNTOUCHED:
            formula: Any = COUNTED.get(packet)
            flops = formula(*args, **kwargs, out_val=result) if formula else 0
            traffic = sum(map(_bytes, _tensors((args, kwargs)))) + sum(map(_bytes, _tensors(result)))
            call = Call(function, layout_of(args), tuple((k, layout_of(v)) for k, v in kwargs.items()), flops, traffic)
            self.work[self.stage].calls[call] += 1
        return result


def layout_of(value: Any) -> Any:
    """That of a tensor, of all tensors in lists, which become tuples so that a call can be looked up."""
    if isinstance(value, Tensor):
        return Layout(tuple(value.shape), value.stride(), value.dtype)
    return tuple(map(layout_of, value)) if isinstance(value, list | tuple) else value


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, Tensor))


def _bytes(tensor: Tensor) -> int:
    """What of it lies in memory: what is expanded is read once."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
