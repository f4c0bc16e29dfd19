"""What a run can do without: pictures and dashboards, which are left out with one warning where they cannot be made."""

from __future__ import annotations

import logging
from types import TracebackType

_log = logging.getLogger(__name__)

NOT_TO_BE_HAD = (
    OSError,  # a file that is gone or unreadable, a full disk, a picture that PIL cannot write
    ValueError,  # a video of another size, numbers that TensorBoard refuses
    RuntimeError,  # VideoDecodeError, and what PyTorch raises
    ImportError,  # a decoder that is installed without its libraries, and is first needed here
    MemoryError,
)
"""What decoding, drawing and logging raise. Any other error is a fault of our own, and ends the run."""


class BestEffort:
    """A context in which something is made that no result depends on.

    Where it cannot be made, the context ends without an error. The first time, a warning names what is missing and why.
    Processes that enter it must not talk to each other in it: one that fails would leave the others waiting.

    Args:
        what: is made, for the warning.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._warned = False

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        if not isinstance(error, NOT_TO_BE_HAD):
            return False
        if not self._warned:
            _log.warning("left out %s, which the run does without: %s", self._what, str(error) or type(error).__name__)
            self._warned = True
        return True
