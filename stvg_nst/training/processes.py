"""The processes of one training: none outlives the others, and the one that failed has time to say why."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

LOOK_SECONDS = 1.0
"""How often a process looks whether the one that started it is still there."""

LAST_WORDS_SECONDS = 10.0
"""How long the first process waits for those that it has started, when it ends by an error, before it ends them."""

ABANDONED = 1
"""Exit status of a process whose parent has gone."""

_log = logging.getLogger(__name__)


@contextmanager
def ended_with_parent() -> Iterator[None]:
    """Lets a process of a training end soon after the one that started it, whatever that one died of.

    It would wait for the others in a collective, up to half an hour, and hold its device meanwhile. Lightning and
    torchrun say by ``LOCAL_RANK`` that a process is one of theirs; in any other process this does nothing.
    """
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(os.getppid(), over), name="parent-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(parent: int, over: threading.Event) -> None:
    while not over.wait(LOOK_SECONDS):
        if os.getppid() != parent:
            _log.error("process %s of this machine ends: the one that started it is gone", os.environ["LOCAL_RANK"])
            os._exit(ABANDONED)  # the main thread may hang in a collective


class LastWords(Callback):
    """Ends the processes that Lightning has started when the first one fails: one that hangs would never end.

    One that has failed itself, which is why the first one cannot go on, gets time to say so.
    """

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher):
            return
        others = [*launcher.procs]
        launcher.procs.clear()  # or Lightning would kill this process, too, as soon as one of them has failed
        deadline = time.monotonic() + LAST_WORDS_SECONDS
        for process in others:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0))
            process.kill()
