"""What a command over Lightning shows: what the suite says, and of the libraries what a person can act on."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

PACKAGES = ("stvg_nst", "datamodules", "callbacks")

_CHATTER = (
    "lightning.pytorch.utilities.rank_zero",  # absent devices, products of its makers, what it does
    "lightning.fabric.utilities.seed",  # the seed, which the run's configuration holds
)
# Warnings that nobody can act on: the module that warns, and its words.
_SETTLED = (
    # Lightning's own use of a function that PyTorch renames.
    (r"lightning\.pytorch\.utilities\._pytree", r"`isinstance\(treespec, LeafSpec\)` is deprecated"),
    # What is logged at the end of an evaluation is the same on every process: the metrics have gathered it.
    (
        r"lightning\.pytorch\.trainer\.connectors\.logger_connector\.result",
        r"It is recommended to use `self\.log\('(val|test)/",
    ),
    # What is frozen is in eval mode for good: tuning rests on that.
    (r"lightning\.pytorch\.loops\.fit_loop", r"Found \d+ module\(s\) in eval mode at the start of training"),
)


@contextmanager
def console(*, verbose: bool = False) -> Iterator[None]:
    """Shows what our packages log from INFO on, until it is left: what is done on stdout, warnings on stderr.

    Args:
        verbose: also show what the libraries tell of themselves.
    """
    handler = _ConsoleHandler(logging.INFO)
    levels = {name: logging.getLogger(name).level for name in PACKAGES}
    for name in PACKAGES:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(logging.INFO)
    with nullcontext() if verbose else without_chatter():
        try:
            yield
        finally:
            for name in PACKAGES:
                logging.getLogger(name).removeHandler(handler)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def without_chatter() -> Iterator[None]:
    """Leaves out what the libraries tell of themselves, and warnings that nobody can act on."""
    levels = {name: logging.getLogger(name).level for name in _CHATTER}
    for name in _CHATTER:
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for module, words in _SETTLED:
            warnings.filterwarnings("ignore", words, module=module)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


class _ConsoleHandler(logging.Handler):
    """Looks the streams up for each line: a progress bar stands in for them while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.WARNING:
            print(self.format(record), flush=True)
        else:
            print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr)
