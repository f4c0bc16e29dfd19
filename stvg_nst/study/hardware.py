"""How a machine computes the runs of a study: overlays that may change how much at once, and nothing of the result."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from stvg_nst.configuration import Config, leaves, read_overlay
from stvg_nst.study.overlays import StudyError

_FREE = (
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy*",
    "data.init_args.batch_size",
    "data.init_args.eval_batch_size",
    "data.init_args.num_workers",
)
_UNSAID = {"trainer.precision": "32-true"}


def refuse_other_results(config: Config, overlays: Sequence[Path]) -> None:
    """Keeps an overlay of hardware from changing what a study compares, such as its precision.

    Raises:
        StudyError: an overlay sets something else than the study, and not only how much is computed at once.
    """
    said = _UNSAID | dict(leaves(config))
    for path in overlays:
        for name, value in leaves(read_overlay(path)):
            if not any(fnmatchcase(name, free) for free in _FREE) and said.get(name) != value:
                raise StudyError(
                    f"'{path}' sets {name} to {value!r}, but the study has {said.get(name)!r}: that would change its "
                    "results; set it in the study, or take it out of a copy of this overlay"
                )
