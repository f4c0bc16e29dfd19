"""What every test needs: one thread, and the way to the data that lies beside the repository."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Tests start loader workers by fork, after which the tokenizers' own thread pool would warn and stall.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
import torch
from hypothesis import HealthCheck, settings

# One thread on purpose: tiny tensors gain nothing from more, and sums come out in the same order on every machine.
torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parents[1]


# Each example overwrites what the one before has left in a test's folder.
_SHARED_FOLDER = [HealthCheck.function_scoped_fixture]
settings.register_profile("few", max_examples=100, deadline=None, suppress_health_check=_SHARED_FOLDER)
# The same ones in every run; `pytest -m '' --hypothesis-show-statistics` counts what is refused and what is harmless.
settings.register_profile(
    "many", max_examples=3000, derandomize=True, deadline=None, suppress_health_check=_SHARED_FOLDER
)


def pytest_configure(config: pytest.Config) -> None:
    """Property tests try few examples, and many where slow tests are run too."""
    settings.load_profile("few" if "not slow" in config.getoption("markexpr") else "many")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run whole commands first, then those of most tests: a long one that began last would run alone."""
    tests_of = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.parent != REPOSITORY / "tests", -tests_of[item.path], item.path))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of papers, golden files and real clips beside the repository; absent on most machines."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder 'shared' beside the repository: golden files and real clips are not part of it")
    return folder


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Tests that a shell runs in its background have inherited that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and PyTorch finds none")
