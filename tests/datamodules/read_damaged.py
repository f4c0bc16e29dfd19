"""Says of every path on its standard input what reading makes of that video: `refused` or `sound`.

A program of its own, for a decoder that hangs or dies cannot be caught from within; and it imports the module of videos
without its package, whose libraries take seconds to load.
"""

from __future__ import annotations

import sys
from pathlib import Path

from video import VideoDecodeError, check_video, iter_frames, probe, read_frames


def outcome(path: Path) -> str:
    """``sound``, or ``refused`` by the error that is meant for it; another error, or a contradiction, ends all."""
    try:
        info = probe(path)
        first = read_frames(path, (0,))
    except VideoDecodeError:
        return "refused"
    assert info.num_frames >= 1 and info.fps > 0 and first.shape == (1, *info.size, 3)
    try:
        checked = check_video(path)
        chunks = [chunk.shape for chunk in iter_frames(path)]
    except VideoDecodeError:
        return "refused"
    assert checked == info and sum(shape[0] for shape in chunks) == info.num_frames
    return "sound"


if __name__ == "__main__":
    for line in sys.stdin:
        print(outcome(Path(line.rstrip("\n"))), flush=True)
