"""The options of every data module: a dataclass field each, with an explanation, and ``root`` the one positional."""

from __future__ import annotations

import inspect
from pathlib import Path

import lightning
import pytest
from jsonargparse import ArgumentParser

import stvg_nst.commands.lightning_cli  # noqa: F401  # lets jsonargparse read the docstrings of fields
from datamodules import HCSTVG, MiniScenes, MiniSTVG, VidSTG

DATA_MODULES = (HCSTVG, VidSTG, MiniSTVG, MiniScenes)


@pytest.mark.parametrize("data_module", DATA_MODULES)
def test_every_option_is_explained_and_only_the_root_has_a_place(data_module: type) -> None:
    parser = ArgumentParser()
    options = parser.add_class_arguments(data_module)
    explained = {action.dest: action.help for action in parser._actions}
    assert [name for name in options if not explained[name]] == []
    kinds = {name: parameter.kind for name, parameter in inspect.signature(data_module).parameters.items()}
    assert [name for name, kind in kinds.items() if kind is not inspect.Parameter.KEYWORD_ONLY] == ["root"]


@pytest.mark.parametrize("data_module", DATA_MODULES)
def test_a_data_module_is_lightnings_and_equals_itself_alone(
    data_module: type[lightning.LightningDataModule], tmp_path: Path
) -> None:
    one, other = data_module(tmp_path), data_module(tmp_path)
    assert len({one, other}) == 2
    assert one.trainer is None and one.prepare_data_per_node


def test_a_child_says_only_what_differs() -> None:
    assert "batch_size" not in vars(HCSTVG)["__annotations__"]
    assert (MiniSTVG.batch_size, HCSTVG.batch_size, VidSTG.batch_size) == (16, 2, 2)
    assert (HCSTVG.antialias, VidSTG.antialias) == (True, False)
    with pytest.raises(ValueError, match=r"--data\.init_args\.eval_num_frames must be at least 1, got 0"):
        VidSTG(eval_num_frames=0)


@pytest.mark.parametrize("option", ["training_clips", "val_clips", "test_clips"])
def test_no_clips_are_not_all_clips(option: str) -> None:
    with pytest.raises(ValueError, match=rf"--data\.init_args\.{option} must be at least 1, got 0"):
        MiniSTVG(**{option: 0})
