"""LoRA, DoRA and AdaLoRA on the toy grounder; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from stvg_nst.tuning import AdaLoRA, DoRA, LoRA, NullSpaceTuning, Tuner, save_adapter
from stvg_nst.tuning.peft import PeftLinear, distance_from_orthonormal

TARGETS = ("encoder.linear2", "decoder.linear2", "head")
QUALITIES = torch.tensor([0, 1, 1])


def tuned(toy: ModuleType, tuner: Tuner, *, scale: float = 0.3) -> nn.Module:
    """A toy under ``tuner`` whose adapters are random."""
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(1)
    for parameter in tuner.trainable_parameters(grounder):
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return grounder


def weights(layer: PeftLinear) -> dict[str, Tensor]:
    """The adapter's tensors by their short names: lora_A, lora_B, lora_E, lora_magnitude_vector, ranknum."""
    return {name.split(".")[1]: value for name, value in layer.named_parameters() if name.startswith("peft_layer")}


# --- equations ------------------------------------------------------------------------------------------------------


def test_lora_by_hand(toy):
    layer = tuned(toy, LoRA(TARGETS, rank=6, alpha=15)).head
    found = weights(layer)
    x = torch.randn(3, 5, 16)
    expected = layer.base_layer(x) + 2.5 * x @ found["lora_A"].T @ found["lora_B"].T
    torch.testing.assert_close(layer(x), expected)


def test_dora_by_hand(toy):
    layer = tuned(toy, DoRA(TARGETS, rank=6, alpha=15)).head
    found = weights(layer)
    direction = layer.base_layer.weight + 2.5 * found["lora_B"] @ found["lora_A"]
    weight = found["lora_magnitude_vector"][:, None] * direction / direction.norm(dim=1, keepdim=True)
    x = torch.randn(3, 5, 16)
    torch.testing.assert_close(layer(x), x @ weight.T + layer.base_layer.bias)


def test_adalora_by_hand(toy):
    layer = tuned(toy, AdaLoRA(TARGETS, rank=6, alpha=15)).head
    found = weights(layer)
    assert found["lora_E"].shape == (9, 1)
    x = torch.randn(3, 5, 16)
    # PEFT divides by the rank and 1e-5.
    expected = layer.base_layer(x) + 2.5 * x @ (found["lora_E"] * found["lora_A"]).T @ found["lora_B"].T
    torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)


def test_orthogonality_is_the_mean_distance_from_orthonormal_directions(toy):
    assert distance_from_orthonormal(torch.eye(3, 5)).item() == 0
    assert distance_from_orthonormal(2 * torch.eye(3, 5)).item() == pytest.approx(27**0.5)
    tuner = AdaLoRA(["head"], rank=2, lambda_orth=0.7)
    layer = tuned(toy, tuner).head
    found = weights(layer)
    right = torch.linalg.matrix_norm(found["lora_A"] @ found["lora_A"].T - torch.eye(3))
    left = torch.linalg.matrix_norm(found["lora_B"].T @ found["lora_B"] - torch.eye(3))
    losses = tuner.auxiliary_losses(QUALITIES)
    torch.testing.assert_close(losses, {"orthogonality": (right + left) / 2})
    assert tuner.loss_weights == {"orthogonality": 0.7}


def test_the_number_of_directions_is_not_trained(toy):
    # A layer in double precision stands for one on a card: PEFT moves the number to either by making it anew.
    grounder = toy.ToyGrounder().double()
    AdaLoRA(TARGETS, rank=6).inject(grounder)
    parts = {name.split(".")[-2] for name, parameter in grounder.named_parameters() if parameter.requires_grad}
    assert parts == {"lora_A", "lora_B", "lora_E"}


@pytest.mark.parametrize("method", [LoRA, DoRA, AdaLoRA])
def test_a_capped_layer_has_the_scale_of_the_others(toy, method):
    grounder = tuned(toy, method(TARGETS, rank=12, alpha=6))
    for layer in (grounder.head, grounder.encoder.linear2):
        scale = layer.peft_layer.scaling["default"] / (layer.peft_layer.r["default"] if method is AdaLoRA else 1)
        assert scale == 0.5


@pytest.mark.parametrize("method", [LoRA, DoRA, AdaLoRA])
def test_a_merged_layer_computes_the_same_and_the_frozen_weight_stays(toy, method):
    layer = tuned(toy, method(TARGETS, rank=6)).decoder.linear2
    before = layer.base_layer.weight.clone()
    merged = layer.merged()
    x = torch.randn(3, 5, 48)
    assert type(merged) is nn.Linear
    torch.testing.assert_close(merged(x), layer(x), atol=1e-5, rtol=1e-4)
    assert (merged(x) - layer.base_layer(x)).abs().max() > 0.1
    assert torch.equal(layer.base_layer.weight, before)


def test_what_depends_on_its_input_is_not_merged(toy):
    grounder = toy.ToyGrounder()
    NullSpaceTuning(TARGETS, rank=6).inject(grounder)
    with pytest.raises(ValueError, match="NullSpaceLinear cannot be merged: what it adds is no fixed matrix"):
        grounder.head.merged()


@pytest.mark.parametrize(
    ("method", "tensors"),
    [
        (LoRA, {"lora_A.default.weight", "lora_B.default.weight"}),
        (DoRA, {"lora_A.default.weight", "lora_B.default.weight", "lora_magnitude_vector.default.weight"}),
        (AdaLoRA, {"lora_A.default", "lora_B.default", "lora_E.default", "ranknum.default"}),
    ],
)
def test_the_file_holds_the_adapter_and_nothing_frozen(toy, tmp_path, method, tensors):
    tuner = method(TARGETS, rank=6)
    save_adapter(tmp_path / "adapter.safetensors", tuned(toy, tuner), tuner)
    names = set(load_file(tmp_path / "adapter.safetensors"))
    assert names == {f"{layer}.peft_layer.{tensor}" for layer in TARGETS for tensor in tensors}


def test_dora_refuses_an_output_without_weights(toy):
    grounder = toy.ToyGrounder()
    grounder.head.weight.data[[2, 5]] = 0
    with pytest.raises(ValueError, match="2 of 9 outputs of 'head' have no weight at all"):
        DoRA(TARGETS, rank=6).inject(grounder)
    assert isinstance(grounder.head, nn.Linear)
    assert grounder.head.weight.requires_grad


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_dora_refuses_an_output_whose_norm_underflows_or_overflows(toy, size):
    grounder = toy.ToyGrounder()
    grounder.head.weight.data[2] = size
    with pytest.raises(ValueError, match=r"1 of 9 outputs of 'head' .* of a norm that torch\.float32 cannot hold"):
        DoRA(TARGETS, rank=6).inject(grounder)


# --- AdaLoRA's ranks ------------------------------------------------------------------------------------------------


class Training:
    """AdaLoRA's training of the toy, step by step."""

    def __init__(self, toy: ModuleType, tuner: AdaLoRA, *, total_steps: int) -> None:
        self.toy, self.tuner, self.total_steps = toy, tuner, total_steps
        self.grounder = toy.ToyGrounder()
        torch.manual_seed(0)  # else whether two directions weigh alike would depend on chance
        tuner.inject(self.grounder)
        self.optimizer = torch.optim.AdamW(tuner.trainable_parameters(self.grounder), lr=1e-2)
        self.steps = 0

    def step(self) -> None:
        self.tuner.set_training(self.grounder, True)
        loss = self.toy.flat(self.grounder(*self.toy.toy_batch(self.steps))).square().mean()
        loss = loss + 0.1 * self.tuner.auxiliary_losses(QUALITIES)["orthogonality"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        self.tuner.after_step(self.grounder, self.steps, self.total_steps)

    def kept(self) -> list[int]:
        """Directions of each layer by what the tuner says."""
        return [int(rank) for rank in self.tuner.diagnostics().values()]

    def alive(self) -> list[int]:
        """The same by what is not zero."""
        layers = [module for module in self.grounder.modules() if isinstance(module, PeftLinear)]
        return [int(weights(layer)["lora_E"].count_nonzero()) for layer in layers]


def test_ranks_fall_to_the_budget_and_stay_there(toy):
    # Ranks 12, 12 and, capped, 9 at first; 8 each, 24 in all, in the end.
    training = Training(toy, AdaLoRA(TARGETS, rank=8, warmup=0.2, settle=0.3, interval=2), total_steps=20)
    assert training.tuner.diagnostics().keys() == {f"rank/{name}" for name in TARGETS}
    budgets = []
    for _ in range(20):
        training.step()
        budgets.append(sum(training.kept()))
        if training.steps in (6, 8, 10, 12) or training.steps >= 14:
            assert training.alive() == training.kept()
    # PEFT's cubic schedule from 33 to 24 over steps 4 to 14, on even steps: int(9 (1 - (step - 4) / 10)^3 + 24).
    assert budgets == [33] * 5 + [28] * 2 + [25] * 2 + [24] * 11
    assert len(set(training.kept())) > 1  # some layers matter more than others
    state = training.tuner.training_state()
    assert not any(name.startswith("exp_avg") for name in state)  # of no use any more


def test_importance_is_a_running_mean_over_the_steps(toy):
    training = Training(toy, AdaLoRA(TARGETS, rank=8, beta1=0.9, beta2=0.8, warmup=0.5), total_steps=20)
    name = "head.peft_layer.lora_B.default"
    mean, uncertainty = torch.zeros(9, 9), torch.zeros(9, 9)
    for _ in range(4):
        training.step()
        parameter = training.grounder.get_parameter(name)
        sensitivity = (parameter * parameter.grad).abs().detach()
        mean = 0.9 * mean + 0.1 * sensitivity
        uncertainty = 0.8 * uncertainty + 0.2 * (sensitivity - mean).abs()
    state = training.tuner.training_state()
    torch.testing.assert_close(state[f"exp_avg_ipt/{name}"], mean)
    torch.testing.assert_close(state[f"exp_avg_unc/{name}"], uncertainty)


def test_a_capped_layer_takes_its_own_rank_of_the_budget(toy):
    # encoder.linear2 starts with 16 and keeps 12 on average; the head has 9 at most, before and after.
    training = Training(toy, AdaLoRA(["encoder.linear2", "head"], rank=12, interval=1), total_steps=4)
    assert training.kept() == [16, 9]
    for _ in range(4):
        training.step()
    assert sum(training.alive()) == 21


def test_a_training_of_one_step_prunes_too(toy):
    training = Training(toy, AdaLoRA(TARGETS, rank=8), total_steps=1)
    training.step()
    assert sum(training.alive()) == 24


def test_a_training_that_is_cut_short_still_ends_within_the_budget(toy):
    training = Training(toy, AdaLoRA(TARGETS, rank=8), total_steps=40)
    for _ in range(10):
        training.step()
    assert sum(training.kept()) > 24
    training.total_steps = 11  # whose last pruning would have been at step 8
    training.step()
    assert sum(training.alive()) == 24


@pytest.mark.parametrize("interruption", [3, 7, 12, 15])
def test_the_allocation_survives_a_checkpoint_in_every_phase(toy, interruption):
    def training() -> Training:
        return Training(toy, AdaLoRA(TARGETS, rank=8, warmup=0.2, settle=0.3, interval=2), total_steps=20)

    whole, first, second = training(), training(), training()
    states = []
    for _ in range(20):
        whole.step()
        states.append(whole.tuner.training_state())
    for _ in range(interruption):
        first.step()
    second.steps = interruption
    second.grounder.load_state_dict(first.grounder.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.tuner.load_training_state(first.tuner.training_state())
    while second.steps < 20:
        second.step()
        torch.testing.assert_close(second.tuner.training_state(), states[second.steps - 1], atol=0, rtol=0)
    for name, tensor in whole.grounder.state_dict().items():
        assert torch.equal(second.grounder.state_dict()[name], tensor), name


def test_a_checkpoint_of_another_method_is_refused():
    with pytest.raises(ValueError, match="does not hold the importance scores"):
        AdaLoRA(TARGETS).load_training_state({})
    state = AdaLoRA(TARGETS).training_state()
    with pytest.raises(ValueError, match="LoRA keeps no state of its training, got 1 tensors such as 'pruned'"):
        LoRA(TARGETS).load_training_state(state)


def test_gradients_that_overflow_are_not_taken_for_importance(toy):
    training = Training(toy, AdaLoRA(TARGETS, rank=8, interval=1), total_steps=20)
    training.step()
    next(iter(training.tuner.trainable_parameters(training.grounder))).grad[0, 0] = float("inf")
    training.tuner.after_step(training.grounder, 2, 20)  # in the warm-up nothing is pruned yet
    with pytest.raises(RuntimeError, match=r"importance of 'encoder\.linear2\.\S+' is not finite.*bf16-mixed"):
        training.tuner.after_step(training.grounder, 3, 20)


def test_options_that_leave_nothing_to_prune_are_refused(toy):
    with pytest.raises(ValueError, match=r"leave time to prune, got 0\.5 and 0\.5; lower"):
        AdaLoRA(TARGETS, warmup=0.5, settle=0.5)
    with pytest.raises(ValueError, match=r"interval must be at least 1 step, got 0"):
        AdaLoRA(TARGETS, interval=0)
    with pytest.raises(ValueError, match=r"beta2 must lie in \(0, 1\), got 1"):
        AdaLoRA(TARGETS, beta2=1)
    grounder = toy.ToyGrounder()
    with pytest.raises(ValueError, match=r"start with 24 directions and shall keep 24.*initial_rank, got 8, .* got 8"):
        AdaLoRA(TARGETS, rank=8, initial_rank=8).inject(grounder)
    assert grounder.head.weight.requires_grad
