"""How a command ends that cannot go on: in one line that says what to do, and an exit status.

What a person did wrong is raised in our words, where the file or the option is known. What a machine ran out of may be
raised anywhere below; its type says so. Everything else is a bug, and keeps its traceback.
"""

from __future__ import annotations

import errno
import io
import os
import re
import select
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

TRACEBACK = "STVG_TRACEBACK"
INTERRUPTED, PIPE_CLOSED = 130, 141  # 128 and the number of the signal, as shells have it

_PACKAGES = ("stvg_nst", "datamodules", "callbacks")
_GPU_ADVICE = (
    "lower --data.init_args.batch_size (eval_batch_size outside of training), let recomputation save memory "
    "(--model.grounder.init_args.recompute_encoder true, recompute_decoders), or take a larger device"
)
_HOST_ADVICE = "lower --data.init_args.num_workers or batch_size, give the job more memory, or end what else runs here"
_FILES_ADVICE = "raise the limit on open files (`ulimit -n 65536`), or lower --data.init_args.num_workers"
_DISK_ADVICE = "make room there, or write elsewhere; a file that was to be replaced is as it was"
_SYSTEM_ADVICE = {
    errno.ENOSPC: _DISK_ADVICE,
    errno.EDQUOT: _DISK_ADVICE,
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`), or write to another file system",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "ask its owner for access, or name another",
    errno.EPERM: "ask its owner for access, or name another",
    errno.EMFILE: _FILES_ADVICE,
    errno.ENFILE: _FILES_ADVICE,
    errno.ENOMEM: _HOST_ADVICE,
    errno.EIO: "the disk or its connection fails; try again, or use a copy elsewhere",
    errno.ESTALE: "the disk or its connection fails; try again, or use a copy elsewhere",
}
# PyTorch says by words alone what it ran out of.
_LIBRARY_WORDS = (
    (r"out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED", "the device is out of memory", _GPU_ADVICE),
    (r"DefaultCPUAllocator|not enough memory|[Cc]annot allocate memory", "memory is used up", _HOST_ADVICE),
    (r"worker.* killed by signal: Killed|worker.* exited unexpectedly", "a loader's process was killed", _HOST_ADVICE),
    (
        r"killed by signal: Bus error|unable to (allocate|write).*shared memory|/dev/shm.*No space",
        "shared memory is used up",
        "start the container with a larger --shm-size, or give --data.init_args.num_workers 0",
    ),
    (r"Too many open files|received 0 items of ancdata", "too many files are open", _FILES_ADVICE),
    (
        r"inline_container|PytorchStreamWriter failed",
        "a checkpoint could not be written whole",
        "look whether its disk is full",
    ),
    (
        r"gloo/|NCCL error|nccl(System|Remote)Error|clients joined|TCPStore|Connection (closed|reset) by peer",
        "another process of this training is gone, or stands still",
        "look above, or at its machine, for what it says; the same command with --ckpt_path last goes on",
    ),
    (
        r"No CUDA GPUs are available|no NVIDIA driver|devices? .*busy or unavailable|invalid device ordinal",
        "the device cannot be used",
        "choose another with --trainer.accelerator and --trainer.devices",
    ),
)
_LIGHTNING = "lightning.fabric.utilities.exceptions"
_BUGS = ("TypeError", "KeyError", "IndexError", "AttributeError", "AssertionError", "NameError", "ZeroDivisionError")
_BY_WORKER = re.compile(r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal Traceback")


@dataclass(frozen=True, slots=True)
class Failure:
    """How a command ends. ``line`` is empty where there is nobody to read it."""

    line: str
    status: int = 1


class Failures:
    """Runs a block. An error that is no bug becomes one line, and ``status`` is what the command ends with.

    ``STVG_TRACEBACK=1`` in the environment shows every error where it was raised.
    """

    def __init__(self) -> None:
        self.status = 0

    def __enter__(self) -> Self:
        # What a terminal's encoding lacks is shown as an escape, the names of files that are no UTF-8 too.
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            try:
                if sys.stdout is not None:
                    sys.stdout.flush()  # a full disk or a closed pipe may show only now
                return True
            except OSError as late:
                error = late
        failure = failure_of(error)
        if failure is None or (TRACEBACK in os.environ and failure.line):
            return False
        self.status = failure.status
        if _is_broken(sys.stdout):
            _discard(sys.stdout)
        if failure.line:
            print(f"error: {failure.line} ({TRACEBACK}=1 shows where it was raised)", file=sys.stderr)
        return True


def failure_of(error: BaseException) -> Failure | None:
    """What to say of an error; ``None`` of a bug, or of an exit that has been explained."""
    # Lightning turns Ctrl-C into an exit with 1, and rich a closed pipe.
    cause = error.__context__ if isinstance(error, SystemExit) and error.code == 1 else error
    if isinstance(cause, KeyboardInterrupt):
        return Failure("interrupted; what was written until now is kept", INTERRUPTED)
    if isinstance(cause, BrokenPipeError) and (cause is not error or _is_broken(sys.stdout)):
        return Failure("", PIPE_CLOSED)
    if isinstance(error, SystemExit):
        return None
    if (told := _told_by_worker(error)) is not None:
        return Failure(told)
    if _is_of("torch", "OutOfMemoryError", error):
        return Failure(f"the device is out of memory: {_first_line(error)}; {_GPU_ADVICE}")
    if isinstance(error, MemoryError):
        return Failure(f"memory is used up{': ' * bool(str(error))}{_first_line(error)}; {_HOST_ADVICE}")
    if isinstance(error, OSError) and error.errno is not None:
        return Failure(_system_words(error))
    if (own := _own_error(error)) is not None:
        return Failure(str(own), getattr(own, "exit_status", 1))
    if isinstance(error, OSError) or _is_of(_LIGHTNING, "MisconfigurationException", error):
        return Failure(str(error))
    if isinstance(error, UnicodeEncodeError):
        lacking = ascii(error.object[error.start : error.end])
        return Failure(f"a text cannot be written as {error.encoding} ({lacking}); is the name of a file no UTF-8?")
    if isinstance(error, UnicodeDecodeError):
        place = f"byte {error.object[error.start]:#x} at {error.start}"
        return Failure(f"a file that is read as text is no UTF-8 ({place}); look at what was given, --config too")
    words = _library_words(str(error)) if isinstance(error, RuntimeError) else None
    return None if words is None else Failure(words)


def _own_error(error: BaseException) -> BaseException | None:
    """The error, or the one behind it, that our own code raised: its message was written for the user.

    jsonargparse wraps what a class says when it is built.
    """
    own: BaseException | None = error
    while isinstance(own, (ValueError, OSError, RuntimeError)):
        frames = list(traceback.walk_tb(own.__traceback__))
        if frames and frames[-1][0].f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
            return own
        own = own.__cause__
    return None


def _is_of(module: str, name: str, error: BaseException) -> bool:
    """Whether an error is of a class of a module, which is not loaded for that."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(error, kind)


def _system_words(error: OSError) -> str:
    """The error as "'file': No such file or directory", and what to do."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    place = " -> ".join(f"'{name}'" for name in names)
    advice = _SYSTEM_ADVICE.get(error.errno or 0)
    return f"{place}{': ' * bool(place)}{error.strerror}" + (f"; {advice}" if advice else "")


def _library_words(words: str) -> str | None:
    for pattern, what, advice in _LIBRARY_WORDS:
        if re.search(pattern, words):
            return f"{what} ({_first_line(words)}); {advice}"
    return None


def _told_by_worker(error: BaseException) -> str | None:
    """The words of an error in a process of a loader, which brings its traceback as text, where it is no bug."""
    text = str(error)
    if (match := _BY_WORKER.match(text)) is None:
        return None
    file, _, rest = text.rpartition('\n  File "')[2].partition('"')
    # Below the code of the frame, which is indented, there is "package.Error: words".
    words = re.split(r"\n(?=\S)", rest, maxsplit=1)[-1].strip().partition(": ")[2]
    if number := re.match(r"\[Errno (\d+)\] (.*)", words, re.DOTALL):
        advice = _SYSTEM_ADVICE.get(int(number[1]))
        return number[2] + (f"; {advice}" if advice else "")
    if match[1] == "MemoryError":
        return f"memory is used up in a process of the loader; {_HOST_ADVICE}"
    if match[1] in _BUGS:
        return None
    ours = any(file.startswith(f"{Path(__file__).parents[2] / package}{os.sep}") for package in _PACKAGES)
    return words if ours else _library_words(words)


def _first_line(error: object) -> str:
    return str(error).strip().partition("\n")[0]


def _is_broken(stream: TextIO | None) -> bool:
    """Whether a stream cannot be written any more: its reader has gone, or its disk is full."""
    if stream is None:  # its descriptor was closed when Python began
        return False
    try:
        stream.flush()  # what could not be written is kept, and fails again
        pipe = select.poll()
        pipe.register(stream.fileno(), 0)  # asks for nothing, and hears of a reader that has gone
        return bool(pipe.poll(0))
    except io.UnsupportedOperation:  # no descriptor: it is a stream in memory
        return False
    except OSError:
        return True


def _discard(stream: TextIO) -> None:
    """Keeps Python from failing again, and saying so, when it ends and flushes the stream."""
    with suppress(OSError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
