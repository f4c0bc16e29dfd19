"""Robust spatio-temporal video grounding by null-space tuning.

>>> from stvg_nst import load
>>> grounder = load("mini")
>>> answer = grounder.ground("clip.mp4", "the big red star spins")  # doctest: +SKIP

PyTorch is loaded when ``load`` is first asked for, and not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stvg_nst.machine.systems import refuse_other_systems

if TYPE_CHECKING:
    from stvg_nst.prediction import Answer, VideoGrounder, load

__all__ = ["Answer", "VideoGrounder", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    refuse_other_systems()
    return getattr(import_module("stvg_nst.prediction"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
