"""Every tuner on a card: the miniature under it answers, learns and forgets as on a processor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from stvg_nst.configuration import merge
from stvg_nst.tuning import NullSpaceTuning, Tuner, adapter_state
from stvg_nst.types import BackboneFeatures, GroundingOutput
from tests.stvg_nst.models.drift import miniature

pytestmark = pytest.mark.gpu

QUERIES = ("the small red star jumps up and down", "what large thing spins?")
QUALITIES = torch.tensor([0, 1])
OVERLAYS = Path("experiments/tuner")
SCOPES = Path("experiments/scope")
METHODS = (
    *("full", "lora", "adalora", "dora", "flylora", "houlsby", "prompts", "switch", "gated_lora", "gated_adapter"),
    *("nst", "nst_paper"),
)
Scene = tuple[BackboneFeatures, Tensor]


@pytest.fixture(autouse=True)
def no_short_multiplications() -> Iterator[None]:
    """cuDNN's convolutions would round what they multiply to 10 bits, on cards that can."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.fixture(scope="module")
def frozen() -> nn.Module:
    return miniature().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def scene(frozen: nn.Module) -> Scene:
    """Two clips, of which one is padded, as the frozen encoders see them."""
    frames = torch.rand(2, 6, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    with torch.no_grad():
        return frozen.encode(frames, mask, ((96, 96), (64, 96))), mask


def build(method: str) -> Tuner:
    overlay = yaml.safe_load((OVERLAYS / f"{method}.yaml").read_text())["model"]["tuner"]
    if not {"targets", "scope"} & overlay["init_args"].keys():
        scope = SCOPES / ("encoder_modules.yaml" if method in ("prompts", "switch") else "both.yaml")
        overlay = merge(overlay, yaml.safe_load(scope.read_text())["model"]["tuner"])
    overlay["init_args"].pop("spaces", None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Tuner, "tuner")
    return parser.instantiate(parser.parse_object({"tuner": overlay})).tuner


def tuned(frozen: nn.Module, tuner: Tuner, device: str) -> nn.Module:
    """Under an adapter that has moved: what it adds is not nothing."""
    grounder = copy.deepcopy(frozen).to(device)
    tuner.inject(grounder)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tuner.trainable_parameters(grounder):
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise).to(device)
    return grounder


def ground(grounder: nn.Module, scene: Scene, device: str) -> GroundingOutput:
    features, mask = scene
    return grounder.ground(features.to(device), mask.to(device), QUERIES)


def flat(output: GroundingOutput) -> Tensor:
    """All stages' answers on real frames."""
    values = [value if value.ndim == 4 else value[..., None] for value in output.answers.values()]
    return torch.cat(values, dim=-1)[:, output.frame_mask].float()


@pytest.mark.parametrize("method", METHODS)
def test_answers_and_gradients_are_those_of_a_processor(frozen: nn.Module, scene: Scene, method: str) -> None:
    answers, gradients = {}, {}
    for device in ("cpu", "cuda"):
        tuner = build(method)
        grounder = tuned(frozen, tuner, device)
        output = flat(ground(grounder, scene, device))
        terms = tuner.auxiliary_losses(QUALITIES.to(device))
        loss = output.square().mean() + sum(tuner.loss_weights[name] * term for name, term in terms.items())
        loss.backward()
        answers[device] = output.detach().cpu()
        gradients[device] = {
            name: parameter.grad.cpu() for name, parameter in grounder.named_parameters() if parameter.grad is not None
        }
    # What the adapter adds is the measure: a card that leaves it out would be off by all of it.
    moved = (answers["cpu"] - flat(ground(frozen, scene, "cpu"))).abs().max()
    assert moved > 1e-3
    assert (answers["cuda"] - answers["cpu"]).abs().max() < 0.05 * moved
    assert gradients["cpu"].keys() == gradients["cuda"].keys() != set()
    together = {device: torch.cat([g.flatten() for g in found.values()]) for device, found in gradients.items()}
    assert torch.linalg.vector_norm(together["cuda"] - together["cpu"]) < 1e-2 * torch.linalg.vector_norm(
        together["cpu"]
    )


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_starts_the_same_on_a_card(frozen: nn.Module, method: str) -> None:
    states = {}
    for device in ("cpu", "cuda"):
        grounder = copy.deepcopy(frozen).to(device)
        torch.manual_seed(0)
        build(method).inject(grounder)
        assert {parameter.device.type for parameter in grounder.parameters()} == {device}
        states[device] = adapter_state(grounder)
    assert states["cpu"].keys() == states["cuda"].keys() != set()
    for name, value in states["cpu"].items():
        # What is drawn is drawn alike; the norms that DoRA starts from are sums, taken where the weights are.
        rounding = 1e-6 if "magnitude" in name else 0.0
        torch.testing.assert_close(states["cuda"][name].cpu(), value, rtol=rounding, atol=0.0)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_closed_gate_gives_the_frozen_answers_bit_for_bit(
    frozen: nn.Module, scene: Scene, precision: torch.dtype
) -> None:
    tuner = build("nst")
    assert isinstance(tuner, NullSpaceTuning)
    bare, grounder = copy.deepcopy(frozen).to("cuda"), tuned(frozen, tuner, "cuda")
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        expected = flat(ground(bare, scene, "cuda"))
        with tuner.bypass():
            assert torch.equal(flat(ground(grounder, scene, "cuda")), expected)
        assert not torch.equal(flat(ground(grounder, scene, "cuda")), expected)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", METHODS)
def test_half_precision_changes_little(frozen: nn.Module, scene: Scene, method: str, precision: torch.dtype) -> None:
    tuner = build(method)
    grounder = tuned(frozen, tuner, "cuda")
    with torch.no_grad():
        single = flat(ground(grounder, scene, "cuda"))
    with torch.autocast("cuda", precision):
        half = flat(ground(grounder, scene, "cuda"))
        terms = tuner.auxiliary_losses(QUALITIES.cuda())
        loss = half.square().mean() + sum(tuner.loss_weights[name] * term for name, term in terms.items())
    loss.backward()
    # FlyLoRA's choice of directions jumps near ties: the median says whether the rest is as it was.
    assert (half - single).abs().median() < 0.05 * single.abs().median()
    assert all(p.grad is None or p.grad.isfinite().all() for p in grounder.parameters())
