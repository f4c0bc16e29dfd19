"""A test file run as several processes that meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_ranks(file: str, folder: Path, *, count: int = 2) -> None:
    """Runs ``python FILE RANK FOLDER`` for each rank at once, one thread each, until all have ended well."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, file, str(rank), str(folder)] for rank in range(count)]
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=60)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
