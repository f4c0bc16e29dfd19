"""`export`: what was tuned becomes part of the weights, or stands beside them in the same file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stvg_nst.commands.lightning_cli import BuiltCLI
from stvg_nst.commands.weights import export
from stvg_nst.prediction import load
from stvg_nst.tuning import save_adapter


def miniature(*overlays: str) -> list[str]:
    names = ("base", "data/mini", "model/mini", "model/mini_weights", *overlays)
    return [f"--config=experiments/{name}.yaml" for name in names]


def tuned(options: list[str], path: Path) -> list[str]:
    """Saves an adapter of random numbers; returns the options that it belongs to."""
    module = BuiltCLI(options, "test").model
    generator = torch.Generator().manual_seed(0)
    for parameter in module.tuner.trainable_parameters(module.grounder):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    save_adapter(path, module.grounder, module.tuner)
    return [*options, f"--model.adapter={path}"]


def test_a_low_rank_update_becomes_part_of_the_weight(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = tuned(miniature("tuner/lora", "scope/decoder"), tmp_path / "adapter.safetensors")
    output = tmp_path / "weights.safetensors"
    assert export([*options, f"--output={output}", "--precision=single"], "test") == 0
    assert capsys.readouterr().out.endswith(f"{output}\n")
    written, frozen = load_file(output), BuiltCLI(miniature("tuner/zero_shot"), "test").model.grounder.state_dict()
    assert written.keys() == frozen.keys()
    adapter = load_file(tmp_path / "adapter.safetensors")
    changed = {name for name, value in written.items() if not torch.equal(value, frozen[name])}
    layers = {name.partition(".peft_layer")[0] for name in adapter}
    assert changed == {f"{layer}.weight" for layer in layers}
    layer = min(layers)
    up, down = (adapter[f"{layer}.peft_layer.lora_{part}.default.weight"] for part in "BA")
    torch.testing.assert_close(written[f"{layer}.weight"], frozen[f"{layer}.weight"] + up @ down)
    output.write_text("somebody's own")
    with pytest.raises(FileExistsError, match="exists already; choose another name, or give --overwrite"):
        export([*options, f"--output={output}"], "test")
    assert output.read_text() == "somebody's own"
    assert export([*options, f"--output={output}", "--overwrite"], "test") == 0
    assert load_file(output).keys() == frozen.keys()


@pytest.mark.slow
def test_a_program_is_written_beside_the_weights(tmp_path: Path) -> None:
    options = tuned(miniature("tuner/lora", "scope/decoder"), tmp_path / "adapter.safetensors")
    output, program = tmp_path / "weights.safetensors", tmp_path / "ground.pt2"
    assert export([*options, f"--output={output}", "--precision=single", f"--program={program}"], "test") == 0
    assert output.exists() and program.stat().st_size > 1e6


@pytest.mark.parametrize(
    ("overlays", "method"),
    [(["tuner/nst"], "NullSpaceTuning"), (["tuner/prompts", "scope/encoder_modules"], "PromptTuning")],
)
def test_what_is_no_change_of_weights_stays_beside_them(overlays: list[str], method: str, tmp_path: Path) -> None:
    options, output = tuned(miniature(*overlays), tmp_path / "adapter.safetensors"), tmp_path / "weights.safetensors"
    assert export([*options, f"--output={output}", "--precision=single"], "test") == 0
    grounder = load(output, device="cpu")
    assert grounder.network.method == method and grounder.viewing.num_frames == 16
    frozen = BuiltCLI(miniature("tuner/zero_shot"), "test").model.grounder.state_dict()
    own = grounder.frozen.grounder.state_dict()
    assert own.keys() == frozen.keys() and all(torch.equal(own[name], frozen[name]) for name in own)


def test_without_an_adapter_there_is_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a tuned grounder is exported: give the run's configuration"):
        export([*miniature("tuner/lora", "scope/decoder"), f"--output={tmp_path / 'weights.safetensors'}"], "test")
