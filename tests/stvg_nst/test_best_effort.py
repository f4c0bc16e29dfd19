from __future__ import annotations

import logging

import pytest

from stvg_nst.best_effort import NOT_TO_BE_HAD, BestEffort


@pytest.mark.parametrize("kind", NOT_TO_BE_HAD)
def test_what_is_missing_is_named_once(kind: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    best_effort = BestEffort("pictures of cats")
    with caplog.at_level(logging.WARNING):
        for cause in ("the cat is gone", "the dog too"):
            with best_effort:
                raise kind(cause)
    assert caplog.messages == ["left out pictures of cats, which the run does without: the cat is gone"]


def test_an_error_without_words_is_named_by_its_type(caplog: pytest.LogCaptureFixture) -> None:
    with BestEffort("pictures"):
        raise MemoryError
    assert caplog.messages == ["left out pictures, which the run does without: MemoryError"]


@pytest.mark.parametrize("kind", [AssertionError, TypeError, KeyError, AttributeError, KeyboardInterrupt])
def test_faults_of_our_own_are_not_hidden(kind: type[BaseException]) -> None:
    with pytest.raises(kind), BestEffort("pictures"):
        raise kind("a fault")
