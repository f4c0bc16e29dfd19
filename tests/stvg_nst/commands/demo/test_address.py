"""The address of the web page: what cannot be served at is refused in a line, before anything is loaded."""

from __future__ import annotations

import socket

import pytest

from stvg_nst.commands.demo import check_address, demo


def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port {port} of '127.0.0.1' is taken; choose another --port"):
            demo(["--port", str(port)], "demo")
    check_address("127.0.0.1", port)


@pytest.mark.parametrize("port", ["70000", "0", "-1"])
def test_a_port_that_there_is_not_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo([f"--port={port}"], "demo")
    said = f"error: argument --port: expected a port from 1 to 65535, got {port}; see demo --help\n"
    assert ended.value.code == 2 and capsys.readouterr().err == said


@pytest.mark.parametrize("host", ["192.0.2.1", "a host", ""])
def test_a_host_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(OSError, match=f"expected an address of this machine as --host, .* got '{host}'"):
        check_address(host, 7860)
