from __future__ import annotations

from pathlib import Path

import pytest

from tests.stvg_nst.models.tubedetr.golden import Golden


@pytest.fixture(scope="session")
def golden(shared: Path) -> Golden:
    return Golden(shared)
