"""A program of tensors says what its network says, in a process that knows PyTorch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.prediction import VideoGrounder
from stvg_nst.prediction.network import Network
from stvg_nst.prediction.program import TensorGround, as_program, save_program
from stvg_nst.tuning import LoRA
from tests.stvg_nst.prediction.adapters import save_random_adapter

RUN = """
import sys, torch
program, inputs = torch.export.load(sys.argv[1]).module(), torch.load(sys.argv[2])
torch.save([program(*each) for each in inputs], sys.argv[3])
assert not {"stvg_nst", "transformers", "timm"} & {*sys.modules}
"""
SHAPES = ((2, 8, 8, 5), (16, 8, 8, 9), (37, 6, 11, 30))


def inputs_of(network: Network) -> list[tuple[Tensor, ...]]:
    """Features and tokens of clips of several lengths and sizes, and sentences of several lengths."""
    grounder = network.grounder
    assert isinstance(grounder, CGSTVG)
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for frames, rows, columns, words in SHAPES:
        maps = [
            torch.randn(1, frames, encoder.channels, rows, columns, generator=generator)
            for encoder in (grounder.visual, grounder.motion)
        ]
        ids = torch.randint(5, 200, (1, words), generator=generator)
        inputs.append((*maps, ids, torch.ones_like(ids)))
    return inputs


@pytest.mark.slow
@pytest.mark.parametrize("gate", [None, "soft", "hard, open", "hard, closed"])
def test_a_program_says_what_its_network_says(mini: VideoGrounder, tmp_path: Path, gate: str | None) -> None:
    network = mini.frozen
    if gate is not None:
        kind, _, state = gate.partition(", ")
        threshold = 100.0 if state == "closed" else -100.0
        adapter = save_random_adapter(tmp_path / "a.safetensors", router="shared", gate=kind, threshold=threshold)
        network = mini.with_adapter("night", adapter).network
    save_program(tmp_path / "program.pt2", as_program(network))
    inputs = inputs_of(network)
    torch.save(inputs, tmp_path / "inputs")
    files = [str(tmp_path / name) for name in ("program.pt2", "inputs", "outputs")]
    subprocess.run([sys.executable, "-c", RUN, *files], check=True, cwd=tmp_path, env={"PATH": ""})
    assert isinstance(network.grounder, CGSTVG)
    with torch.no_grad():
        expected = [TensorGround(network.grounder)(*each) for each in inputs]
        frozen = [TensorGround(mini.frozen.grounder)(*each) for each in inputs]  # type: ignore[arg-type]
    for found, own, plain in zip(torch.load(tmp_path / "outputs"), expected, frozen, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
        if gate is not None:
            assert torch.equal(own[0], plain[0]) == (gate == "hard, closed")


def test_what_does_not_become_a_program_is_refused(mini: VideoGrounder, tmp_path: Path) -> None:
    lora = Network(mini.frozen.grounder, LoRA(targets=["*"]), "single_pass", torch.float32)
    with pytest.raises(ValueError, match="LoRA does not become a program: export it as weights first"):
        as_program(lora)
    other = Network(torch.nn.Linear(1, 1), None, "single_pass", torch.float32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only CG-STVG becomes a program, got Linear"):
        as_program(other)
    with pytest.raises(ValueError, match=r"must be named so, got .*program\.bin"):
        save_program(tmp_path / "program.bin", None)  # type: ignore[arg-type]
