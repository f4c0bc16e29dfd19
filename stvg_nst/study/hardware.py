"""How a machine computes the runs of a study: overlays that may change how much at once, and nothing of the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from stvg_nst.configuration import Config, leaves, look_up, read_overlay
from stvg_nst.study.definition import Study
from stvg_nst.study.overlays import StudyError

_FREE = (
    "trainer.accelerator",
    "trainer.strategy*",
    "data.init_args.eval_batch_size",
    "data.init_args.num_workers",
)
_EFFECTIVE_BATCH = "data.init_args.effective_batch"
_OF_A_STEP = ("trainer.devices", "trainer.num_nodes", "data.init_args.batch_size")
"""What decides how many clips a step of training follows, unless the study says that itself."""
_UNSAID = {"trainer.precision": "32-true"}


def refuse_other_results(study: Study, overlays: Sequence[Path]) -> None:
    """Keeps an overlay of hardware from changing what a study compares, such as its precision.

    Raises:
        StudyError: an overlay sets something else than the study, and not only how much is computed at once.
    """
    said = [(path, name, value) for path in overlays for name, value in leaves(read_overlay(path))]
    _refuse_other(study.baseline, (*_FREE, *_OF_A_STEP), said)
    for config in study.points.values():
        has_own_step = look_up(config, _EFFECTIVE_BATCH) is not None
        _refuse_other(config, (*_FREE, *_OF_A_STEP) if has_own_step else _FREE, said)


def _refuse_other(config: Config, free: Collection[str], said: Sequence[tuple[Path, str, Any]]) -> None:
    own = _UNSAID | dict(leaves(config))
    for path, name, value in said:
        if any(fnmatchcase(name, pattern) for pattern in free) or own.get(name) == value:
            continue
        advice = f"give the study {_EFFECTIVE_BATCH}" if name in _OF_A_STEP else "set it in the study"
        raise StudyError(
            f"'{path}' sets {name} to {value!r}, but the study has {own.get(name)!r}: that would change its results; "
            f"{advice}, or take it out of a copy of this overlay"
        )
