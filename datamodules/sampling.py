"""Which frames of a clip the network sees."""

from __future__ import annotations

import numpy as np


def sample_frames(num_frames: int, num_samples: int) -> tuple[int, ...]:
    """Frame indices spread evenly over a whole clip, its first and last frame included.

    Args:
        num_frames: length of the clip.
        num_samples: indices wanted; a shorter clip gives all of its own. One sample is the first frame.

    Returns:
        ``min(num_samples, num_frames)`` indices in [0, num_frames), strictly increasing.

    Raises:
        ValueError: there are no frames, or no samples are wanted.

    Source: the truncated linspace of TubeDETR and CG-STVG, its floating-point rounding included.
    """
    if num_frames < 1 or num_samples < 1:
        raise ValueError(f"expected at least one frame and one sample, got {num_frames} frames, {num_samples} samples")
    positions = np.linspace(0, num_frames - 1, min(num_frames, num_samples))
    return tuple(int(position) for position in positions)
