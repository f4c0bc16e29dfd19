"""Calls in a process of their own: a decoder that hangs or dies cannot be caught from within."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SECONDS = 30
"""For one call, which takes milliseconds."""

# A fork has all libraries loaded.
_CONTEXT = multiprocessing.get_context("fork")


class OwnProcess:
    """Calls a function in one process after another call, as a loader does; a call that kills it is an error."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._start()

    def __call__(self, *arguments: Any) -> Any:
        if not self._process.is_alive():
            self._start()
        self._connection.send(arguments)
        if not self._connection.poll(SECONDS):
            self.stop()
            raise TimeoutError(f"the call takes longer than {SECONDS} seconds")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join()
            raise AssertionError(f"the call ended its process with exit status {self._process.exitcode}") from None

    def stop(self) -> None:
        self._process.kill()
        self._process.join()

    def _start(self) -> None:
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(self._function, theirs), daemon=True)
        self._process.start()
        theirs.close()


def _serve(function: Callable[..., Any], connection: Connection) -> None:
    while True:
        connection.send(function(*connection.recv()))
