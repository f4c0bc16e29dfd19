"""`demo`: a web page on which a frozen and a tuned model answer side by side, over clean and degraded film.

1. ``films.py``: what may be asked about: clips of the benchmark, and a film that somebody uploads.
2. ``models.py``: the tuned models that lie in folders of runs.
3. ``comparison.py``: one question to both models, and the films that show their answers.
4. ``words.py``: what the answers mean, in words and bars.
5. ``page.py``: the page itself, by Gradio; ``server.py`` serves it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from stvg_nst.command_line.arguments import CommandParser, port

EXTRA = "pip install --constraint constraints.txt --editable '.[demo]'"


def demo(arguments: Sequence[str], program: str) -> int:
    parser = CommandParser(
        prog=program, description="Show on a web page what tuning does to a clip, beside the frozen model."
    )
    parser.add_argument("runs", type=Path, nargs="*", default=[Path("runs")], help="folders that hold runs (runs/)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where MiniSTVG is, or is rendered (data/)")
    parser.add_argument("--host", default="127.0.0.1", help="127.0.0.1 is this machine only; 0.0.0.0 is everyone's")
    parser.add_argument("--port", type=port, default=7860, help="default: %(default)s")
    options = parser.parse_args(arguments)
    check_address(options.host, options.port)
    try:
        from stvg_nst.commands.demo.server import serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(f"the web page needs Gradio, an extra of this package: make demo, or {EXTRA}") from error
    return serve(options.runs, data=options.data, host=options.host, port=options.port)


def check_address(host: str, port: int) -> None:
    """Refuses an address that no page can be served at.

    Raises:
        OSError: the port is taken or reserved, or the host is not of this machine.
    """
    try:
        ((family, kind, _, _, address), *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            if os.name == "posix":  # elsewhere the option lets two programs have one port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise OSError(f"port {port} of '{host}' is taken; choose another --port") from error
        if number == errno.EACCES:
            raise OSError(f"port {port} is for administrators; choose a --port above 1023") from error
        raise OSError(
            f"expected an address of this machine as --host, such as 127.0.0.1, got '{host}' ({error})"
        ) from error
