"""The example in the package's docstring runs as it stands."""

from __future__ import annotations

import doctest

import stvg_nst.tuning


def test_the_example_on_a_model_of_timm_runs() -> None:
    result = doctest.testmod(stvg_nst.tuning)
    assert result.attempted > 10
    assert result.failed == 0
