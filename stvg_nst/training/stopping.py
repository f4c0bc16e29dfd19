"""How a command says that it ended before its work was done, to who called it and to a study; needs no torch."""

from __future__ import annotations

UNFINISHED = 75
"""Exit status of a fit that something else than its steps has ended, a time limit for instance; EX_TEMPFAIL."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, 128 + SIGINT, as of any program of a shell."""

TERMINATED = 143
"""Exit status after SIGTERM, 128 + SIGTERM."""

FOREWARNED = 138
"""Exit status after SIGUSR1, 128 + SIGUSR1, by which a batch system says ahead that a job's time is over."""


class StoppedError(SystemExit):
    """A command that ends before its work is done: no fault, so that no traceback is shown.

    Args:
        text: why, and how to go on, in one line.
        status: what the process exits with.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(status)
        self.text = text
