"""Work that is killed at random moments, as by a power failure, until it ends by itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path

_FORK = get_context("fork")


def is_killed(work: Callable[[], object], *, seconds: float | None) -> bool:
    """Runs work in a fork of this process; whether it was killed after so many seconds, or had ended well before."""
    process = _FORK.Process(target=work)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        return True
    assert process.exitcode == 0, "what a killed process has left stands in the way of the next one"
    return False


def run_for(command: Sequence[str], environment: Mapping[str, str], *, seconds: float | None) -> str | None:
    """Runs a command, and kills it with all that it has started after some time; what it printed if it ended well."""
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return None
    assert process.returncode == 0, printed
    return printed


def seconds_of(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones left out: they are what a killed process leaves, and nobody reads them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return {
        name: path.read_bytes() for name, path in named.items() if not any(p.startswith(".") for p in Path(name).parts)
    }
