"""Every command, against what a person may give it and what a machine may run out of: one line, and no traceback."""

from __future__ import annotations

import io
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from stvg_nst import __main__ as root
from stvg_nst.command_line.failures import TRACEBACK

REPOSITORY = Path(__file__).resolve().parents[1]
PREDICTIONS = '{"format": "stvg-predictions", "version": 1, "method": "M", "tubes": [%s]}'
TRUTH = '{"format": "stvg-ground-truth", "version": 1, "dataset": "D", "split": "test", "tubes": [%s]}'
TUBE = '{"item_id": "a", "start": 0, "stop": 1, "boxes": [[1, 2, 3, 4]]}'
STUDY = "experiments/ablate/rank.yaml"
SMALL = ("--config", "experiments/model/mini.yaml")
# What replaces INPUT, a file that a command reads.
INPUTS = ("absent", "empty", "binary", "folder", "a file/below", "loop")
READERS = {
    "predict": ("predict", "INPUT", "a star", "--output", "new"),
    "predict --table": ("predict", "--table", "INPUT", "--output", "new"),
    "predict --model": ("predict", "film.mp4", "a star", "--model", "INPUT", "--output", "new"),
    "evaluate": ("evaluate", "INPUT", "truth"),
    "evaluate, truth": ("evaluate", "predictions", "INPUT"),
    "evaluate, baseline": ("evaluate", "predictions", "truth", "--baseline", "INPUT"),
    "report": ("report", "INPUT"),
    "study": ("study", "INPUT", "--runs", "runs"),
    "budget": ("budget", "INPUT"),
    "choose": ("choose", "INPUT", "--runs", "runs", "--output", "chosen.yaml"),
    "tables": ("tables", "INPUT", "--runs", "runs"),
    "degrade video": ("degrade", "video", "INPUT", "new.mp4", "--kind", "defocus", "--severity", "1"),
    "data stats": ("data", "stats", "hcstvg_v1", "INPUT", "--split", "test"),
    "data verify": ("data", "verify", "hcstvg_v1", "INPUT", "--workers", "1"),
    "degrade dataset": ("degrade", "dataset", "hcstvg_v1", "INPUT", "new", "--split", "test"),
    "cache frames": ("cache", "frames", "--config", "INPUT"),
    "certify": ("certify", "INPUT"),
    "convert": ("convert", "INPUT", "new.safetensors", *SMALL),
    "initialise": ("initialise", "new.safetensors", "--mdetr", "INPUT", *SMALL),
    "layers": ("layers", "--config", "INPUT"),
    "export": ("export", "--config", "INPUT"),
    "cache features": ("cache", "features", "--config", "INPUT"),
    "fit": ("fit", "--config", "INPUT", "--run", "run"),
    "test": ("test", "--config", "INPUT", "--run", "run"),
    "validate": ("validate", "--config", "INPUT", "--run", "run"),
    "encoders": ("encoders", "--config", "INPUT"),
    "grounding": ("grounding", "--config", "INPUT", "--run", "run"),
    "boxes": ("boxes", "--config", "INPUT", "--run", "run"),
}
# What replaces OUTPUT, a file that a command is to write.
OUTPUTS = ("folder", "a file/below.json", "/dev/full")
WRITERS = {
    "evaluate --json": ("evaluate", "predictions", "truth", "--json", "OUTPUT"),
    "evaluate --markdown": ("evaluate", "predictions", "truth", "--markdown", "OUTPUT"),
}
FOLDER_WRITERS = {
    "study": ("study", STUDY, "--runs", "a file"),
    "study --output": ("study", STUDY, "--runs", "runs", "--report-only", "--output", "a file"),
    "vocabulary": ("vocabulary", "a file"),
    "degrade dataset": ("degrade", "dataset", "hcstvg_v1", "folder", "a file", "--split", "test"),
    "choose": ("choose", STUDY, "--runs", "runs", "--output", "a file/below.yaml"),
    "degrade video": ("degrade", "video", "predictions", "a file/below.mp4", "--kind", "defocus", "--severity", "1"),
}


def _reading() -> Iterator[Any]:
    """Every reader with every input; those that start all of Lightning are slow, but for one."""
    for command, arguments in READERS.items():
        for thing in INPUTS:
            starts_torch = "--config" in arguments or command == "predict"
            slow = starts_torch and (command, thing) not in {("fit", "binary"), ("convert", "empty")}
            yield pytest.param(command, thing, marks=[pytest.mark.slow] if slow else [])


@pytest.fixture
def things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(TRACEBACK, raising=False)
    (tmp_path / "predictions").write_text(PREDICTIONS % TUBE)
    (tmp_path / "truth").write_text(TRUTH % TUBE)
    (tmp_path / "empty").touch()
    (tmp_path / "a file").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], things: Path, **given: str) -> int:
    """The exit status of a command, whose arguments name things by what they are."""
    words = [given.get(word, word) for word in arguments]
    own = {path.name for path in things.iterdir()} | {"runs", "run", "new", "new.mp4", "new.safetensors", "chosen.yaml"}
    words = [str(things / word) if word.partition("/")[0] in own | {"absent"} else word for word in words]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *words])
    try:
        return root.main()
    except SystemExit as ended:
        return int(ended.code or 0)  # argparse and jsonargparse have said it


@pytest.mark.parametrize(("command", "thing"), list(_reading()))
def test_an_input_that_is_none_is_told(
    things: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    thing: str,
) -> None:
    assert run(monkeypatch, READERS[command], things, INPUT=thing) in (1, 2)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert (said.err + said.out).strip()


@pytest.mark.parametrize("thing", OUTPUTS)
@pytest.mark.parametrize("command", WRITERS)
def test_an_output_that_cannot_be_written_is_told(
    things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, thing: str
) -> None:
    assert run(monkeypatch, WRITERS[command], things, OUTPUT=thing) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and thing.rpartition("/")[2] in said.err
    assert said.out == "", "nothing is shown that is not written"


@pytest.mark.parametrize("command", FOLDER_WRITERS)
def test_a_file_in_the_place_of_a_folder_is_told(
    things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(monkeypatch, FOLDER_WRITERS[command], things) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"error: '{things}/a file") and said.out == ""


def test_outputs_make_their_folders_and_never_replace_an_input(
    things: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ("evaluate", "predictions", "truth", "--json", "OUTPUT", "--markdown", "folder/new/table.md")
    assert run(monkeypatch, evaluate, things, OUTPUT="folder/a/b.json") == 0
    assert (things / "folder/a/b.json").read_text().endswith("}\n") and (things / "folder/new/table.md").is_file()
    (things / "link").hardlink_to(things / "truth")
    before = (things / "truth").read_bytes()
    for name in ("truth", "predictions", "link", "folder/../truth"):
        assert run(monkeypatch, evaluate, things, OUTPUT=name) == 1
        assert "is an input of this command" in capsys.readouterr().err
    assert (things / "truth").read_bytes() == before


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("option", ["--json", "--markdown"])
def test_a_full_disk_leaves_the_old_file(things: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    errors = io.StringIO()  # pytest's own capture is a file, and meets the same limit
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    (things / "old").write_text("old")
    with full_disk():
        status = run(monkeypatch, ("evaluate", "predictions", "truth", option, "old"), things)
    assert status == 1 and errors.getvalue().startswith(f"error: '{things}/old': File too large; ")
    assert (things / "old").read_text() == "old"
    assert not [path for path in things.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), 1, "batch_size"),
        (MemoryError(), 1, "memory is used up"),
        (RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. "), 1, "num_workers"),
        (OSError(24, "Too many open files", "/x"), 1, "ulimit -n"),
    ],
)
@pytest.mark.parametrize("command", sorted(root.COMMANDS))
def test_what_a_machine_runs_out_of_ends_every_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    error: BaseException,
    status: int,
    words: str,
) -> None:
    def run_out(arguments: object, program: object) -> int:
        raise error

    monkeypatch.delenv(TRACEBACK, raising=False)
    monkeypatch.setattr(root, "_load", lambda place: run_out)
    monkeypatch.setattr(sys, "argv", ["stvg_nst", *command.split()])
    assert root.main() == status
    said = capsys.readouterr().err
    assert said.startswith("error: ") and words in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--trainer.accelerator", "abacus"), "error: --trainer: You selected an invalid accelerator name"),
        pytest.param(("--trainer.accelerator", "gpu", "--trainer.devices", "99"), "error: ", marks=pytest.mark.slow),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a device that is there is no unknown one")
def test_an_unknown_device_is_told(
    things: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    words: str,
) -> None:
    overlays = ("base", "data/mini", "model/mini", "tuner/zero_shot")
    configured = [word for name in overlays for word in ("--config", f"experiments/{name}.yaml")]
    random = ("--model.weights", "random", "--run", "run")
    assert run(monkeypatch, ("fit", *configured, *random, *options), things) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(words)
    assert os.listdir(things / "folder") == []
