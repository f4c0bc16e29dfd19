"""The parser of a command's settings by itself: to build it takes longer than to parse with it a hundred times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from stvg_nst.commands import run

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


class _Parsed(Exception):
    pass


def settings_parser(stage: str, folder: Path) -> LightningArgumentParser:
    """Of `fit`, `validate` or `test`.

    Args:
        folder: for the run that is begun and not gone on with.
    """
    built: list[LightningArgumentParser] = []

    def keep(stage: str, config: Namespace, parser: LightningArgumentParser, checkpoint: Any) -> None:
        built.append(parser)
        raise _Parsed

    names = ("base", "data/mini", "model/mini", "tuner/zero_shot")
    overlays = [f"--config={EXPERIMENTS / name}.yaml" for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "require_listed", keep)
        with pytest.raises(_Parsed):
            run.RunCLI(stage, [*overlays, "--model.weights=random", f"--run={folder}"])
    return built[0]
