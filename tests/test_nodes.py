"""Several machines, as two agents of torchrun on this one, and a fit that goes on on another number of processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.test_smoke import data, line, stvg, termination_within_the_second_epoch, weights

__all__ = ["data", "stvg", "weights"]  # fixtures

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as here, or sums are taken in another order


def run_on_two_nodes(arguments: list[str]) -> list[str]:
    """Runs a command under two agents that meet on the loopback, and returns what each has printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agents = []
    for node in range(2):
        meeting = ["--nnodes=2", f"--node-rank={node}", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        # Behind "--", or torchrun would take --run for the beginning of an option of its own.
        torchrun = [sys.executable, "-m", "torch.distributed.run", *meeting, f"--master-port={port}"]
        command = [*torchrun, "-m", "--", "stvg_nst"]
        several = ["--trainer.num_nodes=2", "--trainer.devices=1", "--trainer.strategy=ddp"]
        agents.append(
            subprocess.Popen(
                [*command, *arguments, *several],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env=ONE_THREAD,
            )
        )
    printed = [agent.communicate(timeout=600)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(printed)
    return printed


@pytest.mark.slow
def test_two_nodes_give_the_metrics_of_one_process_and_one_of_them_writes(
    stvg: Any, data: Path, weights: Path, tmp_path: Path
) -> None:
    pairs = "--data.init_args.eval_batch_size=2"
    assert stvg("test", "zero_shot", pairs, f"--run={tmp_path / 'one'}") == 0
    first, second = run_on_two_nodes(line("test", "zero_shot", data, weights, pairs, f"--run={tmp_path / 'two'}"))
    one, two = (json.loads((tmp_path / run / "results.json").read_text()) for run in ("one", "two"))
    assert two["machine"]["processes"] == 2 and len(two["samples"]) == len(one["samples"])
    assert one["metrics"].keys() == two["metrics"].keys()
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, abs=1e-6), name
    names = [sorted(path.name.split(".0.")[0] for path in (tmp_path / run).rglob("*")) for run in ("one", "two")]
    assert len(names[0]) == len(names[1]), "the second node has left files of its own"
    assert "MiniSTVG test" in first and "MiniSTVG test" not in second, "the table is the first node's"


@pytest.mark.slow
def test_a_fit_goes_on_within_an_epoch_on_another_number_of_processes(
    stvg: Any, data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    shared = ("--trainer.max_epochs=2", "--data.init_args.batch_size=2", "--data.init_args.effective_batch=4")
    assert stvg("fit", "nst", f"--run={whole}", *shared) == 0
    with termination_within_the_second_epoch(monkeypatch):
        stvg("fit", "nst", f"--run={moved}", *shared)
    assert torch.load(moved / "checkpoints" / "last.ckpt")["global_step"] == 3, "two of an epoch, and one"
    resumed = line("fit", "nst", data, weights, f"--run={moved}", *shared, "--ckpt_path=last")
    several = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    subprocess.run(
        [sys.executable, "-m", "stvg_nst", *resumed, *several],
        check=True,
        capture_output=True,
        timeout=600,
        env=ONE_THREAD,
    )
    expected, found = (load_file(run / "adapter.safetensors") for run in (whole, moved))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=partial("{}: {}".format, name))
