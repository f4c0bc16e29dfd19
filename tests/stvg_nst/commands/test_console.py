from __future__ import annotations

import logging
import warnings

import pytest

from stvg_nst.commands.console import console

LIGHTNING = "lightning.pytorch.utilities.rank_zero"


def test_what_is_done_goes_to_stdout_and_warnings_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with console():
        logging.getLogger("callbacks.some").info("%s of 2", 1)
        logging.getLogger("datamodules.some").warning("a film is gone")
    logging.getLogger("callbacks.some").info("behind it, nothing is shown")
    shown = capsys.readouterr()
    assert shown.out == "1 of 2\n" and shown.err == "warning: a film is gone\n"


@pytest.mark.parametrize("verbose", [False, True])
def test_what_libraries_tell_of_themselves_is_for_those_who_ask(verbose: bool) -> None:
    import lightning  # noqa: F401  # sets its loggers up

    before = logging.getLogger(LIGHTNING).getEffectiveLevel()
    with console(verbose=verbose):
        assert logging.getLogger(LIGHTNING).isEnabledFor(logging.INFO) == verbose
        assert logging.getLogger(LIGHTNING).isEnabledFor(logging.WARNING)
    assert logging.getLogger(LIGHTNING).getEffectiveLevel() == before


def test_only_warnings_that_are_named_are_left_out() -> None:
    def warn(words: str, module: str) -> None:
        warnings.warn_explicit(words, UserWarning, f"{module}.py", 1, module=module, registry={})

    fit_loop = "lightning.pytorch.loops.fit_loop"
    with console(), warnings.catch_warnings(record=True) as heard:
        warn("Found 343 module(s) in eval mode at the start of training. This may", fit_loop)
        warn("Found 343 module(s) in eval mode at the start of training. This may", "stvg_nst.module")
        warn("the loss is not finite", fit_loop)
        for name in ("val/HQ/m_vIoU", "own"):
            advice = f"It is recommended to use `self.log('{name}', ..., sync_dist=True)` when logging on epoch level"
            warn(advice, "lightning.pytorch.trainer.connectors.logger_connector.result")
    said = [str(warning.message) for warning in heard]
    assert [words[:8] for words in said[:2]] == ["Found 34", "the loss"] and len(said) == 3 and "'own'" in said[2]
