from __future__ import annotations

import random
from itertools import pairwise

import pytest

from datamodules.sampling import sample_frames


def test_known_choices() -> None:
    assert sample_frames(10, 4) == (0, 3, 6, 9)
    assert sample_frames(3, 8) == (0, 1, 2)
    assert sample_frames(9, 1) == (0,)


def test_rounds_as_the_reference_does_where_a_float_falls_short_of_an_exact_quotient() -> None:
    assert sample_frames(109, 100)[55] == 59  # 55 * 108 / 99 is 60


def test_spans_the_clip_evenly_and_increases() -> None:
    rng = random.Random(0)
    for _ in range(300):
        num_frames, num_samples = rng.randint(2, 2000), rng.randint(2, 200)
        ids = sample_frames(num_frames, num_samples)
        gaps = [b - a for a, b in pairwise(ids)]
        assert len(ids) == min(num_frames, num_samples)
        assert (ids[0], ids[-1]) == (0, num_frames - 1)
        # A rounding error may cost one frame more than the floor's own one.
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize(("num_frames", "num_samples"), [(0, 4), (-1, 4), (5, 0), (5, -2)])
def test_refuses_nonsense(num_frames: int, num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"got {num_frames} frames, {num_samples} samples"):
        sample_frames(num_frames, num_samples)
