"""What every test needs: one thread, and the way to the data that lies beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

# Tests start loader workers by fork, after which the tokenizers' own thread pool would warn and stall.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch

# One thread on purpose: tiny tensors gain nothing from more, and sums come out in the same order on every machine.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of papers, golden files and real clips beside the repository; absent on most machines."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' beside the repository: golden files and real clips are not part of it")
    return folder


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and PyTorch finds none")
