"""Wrong arguments are refused in one line, before anything is read or written."""

from __future__ import annotations

import re
import sys

import pytest

from stvg_nst import __main__ as root

REFUSED = {
    "evaluate a b --lambda-hq inf": "--lambda-hq: expected a finite number, at least 0, got inf",
    "evaluate a b --lambda-hq=nan": "--lambda-hq: expected a finite number, at least 0, got nan",
    "evaluate a b --lambda-hq=-1": "--lambda-hq: expected a finite number, at least 0, got -1",
    "evaluate a b --lambda-hq x": "--lambda-hq: expected a number, got 'x'",
    "evaluate a b --seed=-1": "--seed: expected a seed from 0 to 4294967295, got -1",
    "evaluate a b --seed 4294967296": "--seed: expected a seed from 0 to 4294967295, got 4294967296",
    "evaluate a b --seed 1.5": "--seed: expected a whole number, got '1.5'",
    "evaluate a b --bootstrap=-3": "--bootstrap: expected at least 0, got -3",
    "evaluate a b --bootstrp 3": "--bootstrp 3 (did you mean '--bootstrap'?)",
    "certify run --batches 0": "--batches: expected at least 1, got 0",
    "study s.yaml --runs r --jobs 0": "--jobs: expected at least 1, got 0",
    "study s.yaml --runs r --seeds=-1": "--seeds: expected a seed",
    "choose s.yaml --runs r --output o --seeds=-1": "--seeds: expected a seed",
    "choose s.yaml --runs r --ouput o": "the following arguments are required: --output",
    "tables s.yaml --runs r --bootstrap 0": "--bootstrap: expected at least 1, got 0",
    "report . --by-degradation WAS": "--by-degradation: invalid choice: 'WAS' (choose from",
    "budget s.yaml --run r": "unrecognized arguments: --run r",
    "degrade video a b --kind defocus --severity 2 --seed=-1": "--seed: expected a seed",
    "degrade video a b --kind defocus --severity 0": "--severity: invalid choice: 0",
    "data verify hcstvg_v1 x --workers 0": "--workers: expected at least 1, got 0",
    "data verify hcstvg_v1 x --time-limit nan": "--time-limit: expected a positive, finite number, got nan",
    "degrade dataset hcstvg_v1 x y --split val --benchmark-seed=-1": "--benchmark-seed: expected a seed",
    "cache frames --workers=0": "--workers: expected at least 1, got 0",
    "cache frames --confg x": "unrecognized arguments: --confg x (did you mean '--config'?)",
    "convert a b --overwrit": "unrecognized arguments: --overwrit (did you mean '--overwrite'?)",
    "initialise a --seed=-1": "--seed: expected a seed",
    "encoders --seed_everything true": "--seed_everything: expected a whole number, got 'true'",
    "vocabulary": "the following arguments are required: folder",
    "degrade dataset hcstvg_v1 x y --split test vall": "--split: invalid choice: 'vall'",
    "cache frames --split tests": "--split: invalid choice: 'tests'",
    "data verfy": "unknown command 'data verfy' (did you mean 'data verify'?)",
    "fti": "unknown command 'fti' (did you mean 'fit'?)",
}


@pytest.mark.parametrize("command", REFUSED)
def test_a_wrong_argument_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *command.split()])
    try:
        status = root.main()
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and REFUSED[command] in error
    assert error.startswith("error: ") and error.count("\n") == 1 and "--help" in error


BASE = [f"--config=experiments/{name}.yaml" for name in ("base", "data/mini", "model/mini", "tuner/zero_shot")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["layers", "--share=2", "--strategy=random"], r"share of the candidates must lie in \(0, 1\], got 2.0"),
        (["layers", "--rule=energy"], "rule 'energy' needs a threshold"),
        (["layers", "--output=layers.txt"], "written as .json or .csv"),
        (["cache features", "--data.init_args.batch_size=0"], "--data.init_args.batch_size must be at least 1, got 0"),
        (["cache features", "--trainer.max_epochs=-3"], "--trainer: `max_epochs` must be a non-negative integer or -1"),
    ],
)
def test_what_is_built_is_checked_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    command, *options = arguments
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *command.split(), *BASE, "--model.weights=random", *options])
    assert root.main() == 1
    error = capsys.readouterr().err.split("error: ")[1]
    assert re.search(message, error.splitlines()[0])
