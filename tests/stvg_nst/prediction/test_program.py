"""A program of tensors says what its network says, in a process that knows PyTorch alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from stvg_nst.models.cgstvg import CGSTVG
from stvg_nst.models.tubedetr import TubeDETR
from stvg_nst.prediction import VideoGrounder
from stvg_nst.prediction.network import Network
from stvg_nst.prediction.program import TensorGround, as_program, save_program
from stvg_nst.tuning import LoRA, NullSpaceTuning
from stvg_nst.tuning.adapter import adapter_state
from tests.stvg_nst.models.small import small_tubedetr
from tests.stvg_nst.prediction.adapters import save_random_adapter
from tests.stvg_nst.tuning.tubedetr_toy import INPUTS

RUN = """
import sys, torch
program, inputs = torch.export.load(sys.argv[1]).module(), torch.load(sys.argv[2])
torch.save([program(*each) for each in inputs], sys.argv[3])
assert not {"stvg_nst", "transformers", "timm"} & {*sys.modules}
"""
SHAPES = ((16, 8, 8, 9), (37, 6, 11, 30))


def inputs_of(network: Network) -> list[tuple[Tensor, ...]]:
    """Features and tokens of clips of several lengths and sizes, and sentences of several lengths."""
    grounder = network.grounder
    least = grounder.stride + 1 if isinstance(grounder, TubeDETR) else 2
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for frames, rows, columns, words in ((least, 8, 8, 5), *SHAPES):
        maps = [
            torch.randn(1, frames, channels, rows, columns, generator=generator)
            for channels in grounder.feature_channels
        ]
        ids = torch.randint(5, 200, (1, words), generator=generator)
        inputs.append((*maps, ids, torch.ones_like(ids)))
    return inputs


def run_alone(program: ExportedProgram, inputs: list[tuple[Tensor, ...]], folder: Path) -> list[tuple[Tensor, ...]]:
    """What a program says in a process without this suite."""
    save_program(folder / "program.pt2", program)
    torch.save(inputs, folder / "inputs")
    files = [str(folder / name) for name in ("program.pt2", "inputs", "outputs")]
    subprocess.run([sys.executable, "-c", RUN, *files], check=True, cwd=folder, env={"PATH": ""})
    return torch.load(folder / "outputs")


@pytest.mark.slow
@pytest.mark.parametrize("gate", [None, "soft", "hard, open", "hard, closed"])
def test_a_program_says_what_its_network_says(mini: VideoGrounder, tmp_path: Path, gate: str | None) -> None:
    network = mini.frozen
    if gate is not None:
        kind, _, state = gate.partition(", ")
        threshold = 100.0 if state == "closed" else -100.0
        adapter = save_random_adapter(tmp_path / "a.safetensors", router="shared", gate=kind, threshold=threshold)
        network = mini.with_adapter("night", adapter).network
    inputs = inputs_of(network)
    said = run_alone(as_program(network), inputs, tmp_path)
    assert isinstance(network.grounder, CGSTVG)
    with torch.no_grad():
        expected = [TensorGround(network.grounder)(*each) for each in inputs]
        frozen = [TensorGround(mini.frozen.grounder)(*each) for each in inputs]  # type: ignore[arg-type]
    for found, own, plain in zip(said, expected, frozen, strict=True):
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
        if gate is not None:
            assert torch.equal(own[0], plain[0]) == (gate == "hard, closed")


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "stride"), [(None, 1), ("soft", 2), ("hard", 3)])
def test_so_does_a_program_of_tubedetr_for_any_number_of_slow_frames(
    tmp_path: Path, gate: Literal["soft", "hard"] | None, stride: int
) -> None:
    grounder, tuner = small_tubedetr(), None
    grounder.stride = stride
    if gate is not None:
        targets = [INPUTS, "fast_*", "encoder.layers.*.ffn.linear2", "decoder.layers.*.ffn.linear2"]
        tuner = NullSpaceTuning(targets, rank=6, router="shared", gate=gate, seed=0)
        tuner.inject(grounder)
        for name, tensor in adapter_state(grounder).items():
            if name.endswith("row_head.outer.weight"):
                torch.nn.init.normal_(tensor)
            elif name.endswith("router.threshold"):
                tensor.fill_(-100.0)  # open
    network = Network(grounder.requires_grad_(False), tuner, "single_pass", torch.float32)
    inputs = inputs_of(network)
    said = run_alone(as_program(network), inputs, tmp_path)
    with torch.no_grad():
        expected = [TensorGround(grounder)(*each) for each in inputs]
    torch.testing.assert_close(said, expected, rtol=1e-5, atol=1e-5)
    boxes, start_end = said[-1]
    assert boxes.shape == (1, 37, 4) and start_end.shape == (1, 37, 2)


def test_what_does_not_become_a_program_is_refused(mini: VideoGrounder, tmp_path: Path) -> None:
    lora = Network(mini.frozen.grounder, LoRA(targets=["*"]), "single_pass", torch.float32)
    with pytest.raises(ValueError, match="LoRA does not become a program: export it as weights first"):
        as_program(lora)
    other = Network(torch.nn.Linear(1, 1), None, "single_pass", torch.float32)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CG-STVG and TubeDETR become programs, and no Linear"):
        as_program(other)
    with pytest.raises(ValueError, match=r"must be named so, got .*program\.bin"):
        save_program(tmp_path / "program.bin", None)  # type: ignore[arg-type]
