"""A rendered clip or two, the shipped miniature, and an adapter that changes what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules import MiniSTVG
from stvg_nst.prediction import VideoGrounder, load
from tests.stvg_nst.prediction.adapters import save_random_adapter


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> MiniSTVG:
    """A test split of two rendered clips."""
    data = MiniSTVG(tmp_path_factory.mktemp("data"), test_clips=2, num_workers=0)
    data.setup("test")
    return data


@pytest.fixture(scope="session")
def clip(clips: MiniSTVG) -> Path:
    """128 x 128 pixels, 32 frames, 4 seconds."""
    return clips.records["test"][0].video


@pytest.fixture(scope="session")
def mini() -> VideoGrounder:
    return replace(load("mini", device="cpu"), adapters={}, adapter=None)


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Null-space tuning of the decoders whose numbers are random, so that answers differ from the frozen ones."""
    return save_random_adapter(tmp_path_factory.mktemp("night") / "adapter.safetensors", router="shared")
