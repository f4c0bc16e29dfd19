from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch._utils import ExceptionWrapper

from stvg_nst.command_line import failures
from stvg_nst.command_line.failures import Failures, failure_of
from stvg_nst.evaluation import TubeFileError, load_predictions

REPOSITORY = Path(__file__).resolve().parents[3]
TRACEBACK_OFFER = " (STVG_TRACEBACK=1 shows where it was raised)\n"


@pytest.fixture(autouse=True)
def no_traceback_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(failures.TRACEBACK, raising=False)


def raised(raise_it: Callable[[], object]) -> BaseException:
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"),
            "batch_size .*recompute_encoder",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel"),
            "device is out of memory .*batch_size",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "batch_size"),
        (
            RuntimeError(
                "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9"
            ),
            "another process of this training is gone, or stands still .*--ckpt_path last",
        ),
        (
            RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"),
            "another process of this training is gone, or stands still",
        ),
        (
            RuntimeError("NCCL error in: NCCLUtils.hpp:1, remote process exited or there was a network error"),
            "another process of this training is gone",
        ),
        (MemoryError(), "memory is used up; lower --data.init_args.num_workers or batch_size"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't"),
            "memory is used",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory; lower"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "process was killed .*num_workers"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "process was killed"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"), "--shm-size"),
        (OSError(errno.EMFILE, "Too many open files", "/x"), r"'/x': Too many open files; .*ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "'/x': No space left on device; make room"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/x"), "'/x': Disk quota exceeded; make room"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "'/x': Read-only file system; write elsewhere"),
        (OSError(errno.EFBIG, "File too large", "/x"), "'/x': File too large; .*ulimit -f"),
        (OSError(errno.EACCES, "Permission denied", "/x"), "'/x': Permission denied; ask"),
        (OSError(errno.ENOENT, "No such file or directory", b"/caf\xe9"), "No such file or directory"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "checkpoint .*disk"),
        (UnicodeDecodeError("utf-8", b"a\x80", 1, 2, "invalid start byte"), "no UTF-8 .byte 0x80 at 1.*--config"),
        (UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed"), r"utf-8 \('\\udce9'\)"),
        (RuntimeError("No CUDA GPUs are available"), "the device cannot be used .*--trainer.accelerator"),
        (MisconfigurationException("No supported gpu backend found!"), "^No supported gpu backend found!$"),
    ],
)
def test_what_a_machine_ran_out_of_is_one_line_that_says_what_to_do(error: Exception, words: str) -> None:
    failure = failure_of(raised(lambda: throw(error)))
    assert failure is not None and failure.status == 1 and "\n" not in failure.line
    assert re.search(words, failure.line)


@pytest.mark.parametrize("error", [ValueError("x"), RuntimeError("shapes differ"), KeyError("x"), TypeError("x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    assert failure_of(raised(lambda: throw(error))) is None
    with pytest.raises(type(error)), Failures():
        raise error


def test_our_own_errors_are_shown_as_they_are_written(tmp_path: Path) -> None:
    error = raised(lambda: load_predictions(tmp_path / "absent.json"))
    assert isinstance(error, TubeFileError)
    failure = failure_of(error)
    assert failure is not None and failure.line == f"{tmp_path}/absent.json: cannot be read: No such file or directory"


def test_ctrl_c_is_one_line_also_where_lightning_has_caught_it(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted_fit() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for interrupt in (lambda: throw(KeyboardInterrupt()), interrupted_fit):
        with Failures() as ended:
            interrupt()
        assert ended.status == 130
        assert capsys.readouterr().err == f"error: interrupted; what was written until now is kept{TRACEBACK_OFFER}"


def test_an_exit_that_was_asked_for_stays_as_it_is() -> None:
    with pytest.raises(SystemExit, match="3"), Failures():
        sys.exit(3)


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    def flush(self) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.mark.parametrize("late", [False, True])
def test_a_closed_pipe_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], late: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    with Failures() as ended:
        if not late:
            print("a table")
    assert ended.status == 141
    assert capsys.readouterr().err == ""


def test_a_broken_pipe_that_is_not_the_output_is_told() -> None:
    failure = failure_of(raised(lambda: throw(BrokenPipeError(errno.EPIPE, "Broken pipe"))))
    assert failure is not None and failure.line == "Broken pipe"


def from_a_worker(error: BaseException) -> BaseException:
    caught = raised(lambda: throw(error)) if error.__traceback__ is None else error
    wrapper = ExceptionWrapper((type(caught), caught, caught.__traceback__), where="in DataLoader worker process 0")
    return raised(wrapper.reraise)


def test_an_error_in_a_loader_s_process_is_told_in_its_own_words(tmp_path: Path) -> None:
    ours = raised(lambda: load_predictions(tmp_path / "absent.json"))
    failure = failure_of(from_a_worker(ours))
    assert failure is not None and failure.line == f"{tmp_path}/absent.json: cannot be read: No such file or directory"

    failure = failure_of(from_a_worker(OSError(errno.EMFILE, "Too many open files", "/x")))
    assert failure is not None and failure.line.startswith("Too many open files: '/x'; raise the limit")
    failure = failure_of(from_a_worker(MemoryError()))
    assert failure is not None and failure.line.startswith("memory is used up in a process of the loader")
    assert failure_of(from_a_worker(KeyError("x"))) is None
    assert failure_of(from_a_worker(ValueError("x"))) is None, "raised by this test, not by the suite"


def test_every_traceback_is_shown_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failures.TRACEBACK, "1")
    with pytest.raises(MemoryError), Failures():
        raise MemoryError


@pytest.mark.parametrize(
    ("redirection", "status", "error"),
    [
        ("| true", 141, ""),
        ("> /dev/full", 1, "error: No space left on device; make room there, or write elsewhere"),
        (">&-", 0, ""),
    ],
)
def test_standard_output_may_be_closed_or_full(redirection: str, status: int, error: str) -> None:
    # Longer than a pipe's buffer, so that a reader that has gone shows.
    program = (
        "from stvg_nst.command_line.failures import Failures\nwith Failures() as f: print(200000 * 'x')\nexit(f.status)"
    )
    command = f'set -o pipefail; "$0" -c "$1" {redirection}'
    ran = subprocess.run(
        ["bash", "-c", command, sys.executable, program], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert (ran.returncode, ran.stderr[: len(error)] or "") == (status, error)
    assert "Traceback" not in ran.stderr and "Exception ignored" not in ran.stderr


def test_what_a_terminal_cannot_show_is_escaped() -> None:
    program = (
        "import os\nfrom stvg_nst.command_line.failures import Failures\n"
        "with Failures(): print('caf\u00e9', os.fsdecode(b'\\xe9'))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        cwd=REPOSITORY,
        check=True,
    )
    assert ran.stdout == b"caf\\xe9 \\udce9\n"
