"""A test file run as several processes that meet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run_ranks(file: str, folder: Path, *, count: int = 2, task: str = "") -> None:
    """Runs ``python FILE RANK FOLDER COUNT TASK`` for each rank at once, one thread each, until all have ended well."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, file, str(rank), str(folder), str(count), task] for rank in range(count)]
    ranks = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=300)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()


def join_ranks(rank: int, folder: Path, *, count: int) -> None:
    """Meets the other ranks in a folder; a trainer with the strategy ``ddp`` goes on from there."""
    import torch

    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    torch.distributed.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=count)
