"""What every tuner must fulfil; a new method joins by one line in TUNERS."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.tuning import (
    AdaLoRA,
    CorDA,
    DoRA,
    FlyLoRA,
    FullFineTuning,
    GatedAdapter,
    GatedLoRA,
    HoulsbyAdapters,
    LoRA,
    NullSpaceProjection,
    NullSpaceTuning,
    PromptTuning,
    Switch,
    TunedLayer,
    TunedLinear,
    Tuner,
    ZeroShot,
    adapter_state,
    save_adapter,
)
from stvg_nst.tuning.base import InjectionReport, TuningModule
from stvg_nst.tuning.selection import select_by_name
from tests.stvg_nst.tuning import toy as plain
from tests.stvg_nst.tuning import tubedetr_toy

ROOT = Path(__file__).parents[3]
QUALITIES = torch.tensor([0, 1, 1])
STEPS = 3

# On a model: the toy, or what stands in its place and names its own layers.
TUNERS: dict[str, Callable[[ModuleType], Tuner]] = {
    "zero_shot": lambda toy: ZeroShot(),
    "full": lambda toy: FullFineTuning(toy.SCOPE),
    "lora": lambda toy: LoRA(toy.TARGETS, rank=6, alpha=12),
    "lora_capped": lambda toy: LoRA(toy.TARGETS, rank=12),  # the head has 9 outputs
    "dora": lambda toy: DoRA(toy.TARGETS, rank=6),
    "adalora": lambda toy: AdaLoRA(toy.TARGETS, rank=6, interval=1),
    "flylora": lambda toy: FlyLoRA(toy.TARGETS, rank=6, active_share=0.3),
    "flylora_signed": lambda toy: FlyLoRA(toy.TARGETS, rank=6, active_share=0.3, selection="signed"),
    "corda": lambda toy: CorDA(toy.TARGETS, rank=6, alpha=12),
    "projection": lambda toy: NullSpaceProjection(toy.TARGETS, hq_energy=0.9),
    "houlsby": lambda toy: HoulsbyAdapters(toy.TARGETS, width=6),
    "prompts": lambda toy: PromptTuning(("encoder",), count=2, seed=0),
    "switch": lambda toy: Switch(toy.SCOPE),
    "switch_both": lambda toy: Switch(toy.SCOPE, tuned_on="both"),
    "gated_lora": lambda toy: GatedLoRA(toy.TARGETS, rank=6),
    "gated_lora_hard": lambda toy: GatedLoRA(toy.TARGETS, rank=6, gate="hard"),
    "nst": lambda toy: NullSpaceTuning(toy.TARGETS, rank=6),
    "nst_hard": lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, gate="hard"),
    "gated_adapter": lambda toy: GatedAdapter(toy.TARGETS, rank=6),
    "nst_labels": lambda toy: NullSpaceTuning(
        toy.TARGETS, rank=None, router="shared", gate_training="label", basis="svd_whitened"
    ),
    "nst_statistics": lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, router="shared", router_reads="statistics"),
    "nst_hq_null": lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, row_input="hq_null", hq_energy=0.9),
    "nst_frame": lambda toy: NullSpaceTuning(
        toy.TARGETS, rank=6, gate_per="frame", coefficients_from="reference_and_gap"
    ),
    "nst_leaking": lambda toy: NullSpaceTuning(
        (*toy.TARGETS, toy.LEAKING), rank=6, rank_rule="relative", rank_threshold=0.4
    ),
}


def of_inputs(make: Callable[[ModuleType], Tuner]) -> Callable[[ModuleType], Tuner]:
    """The method in one layer more: the one that the tokens of the reference point come from."""

    def tuner(toy: ModuleType) -> Tuner:
        made = make(toy)
        where = "scope" if hasattr(made, "scope") else "targets"
        fitting = {"rank": min(made.rank or 3, 3)} if isinstance(made, NullSpaceTuning) else {}
        if made.clean_clips and hasattr(made, "hq_energy"):
            fitting["hq_energy"] = 0.3  # of 3 directions none has less than a tenth of the energy
        return replace(made, **{where: (toy.INPUTS, *getattr(made, where))}, **fitting)

    return tuner


TUNERS |= {
    f"{name}_inputs": of_inputs(make)
    for name, make in TUNERS.items()
    if name not in ("zero_shot", "prompts")  # without layers, and in front of layers of tokens only
}

# The most by which an output of the toy, of magnitude 1.6, may differ from the pre-trained one before the first step.
# All others start from the pre-trained function bit by bit.
STARTS_WITHIN = {
    "corda": 1e-5,  # the weight is taken apart and summed up again
    "prompts": 0.15,  # they enlarge the softmax of the attention
    # Of an input that is not contiguous, PyTorch multiplies weights that are trained in another order.
    **dict.fromkeys(("full_inputs", "projection_inputs", "switch_inputs", "switch_both_inputs"), 1e-6),
}


@pytest.fixture(params=[plain, pytest.param(tubedetr_toy, marks=pytest.mark.slow)], ids=["toy", "TubeDETR"])
def toy(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(params=TUNERS)
def tuner(request: pytest.FixtureRequest, toy: ModuleType) -> Tuner:
    return TUNERS[request.param](toy)


def injected(toy: ModuleType, tuner: Tuner, grounder: nn.Module | None = None) -> tuple[nn.Module, InjectionReport]:
    """A toy under a tuner that has seen the clean clips that it asks for, as ahead of a first step."""
    grounder = grounder or toy.ToyGrounder()
    report = tuner.inject(grounder)
    if tuner.clean_clips:
        tuner.calibrate(grounder, [toy.toy_batch(100), toy.toy_batch(101)], lambda batch: grounder(*batch))
    return grounder, report


def make_optimizer(grounder: nn.Module, tuner: Tuner) -> torch.optim.Optimizer | None:
    parameters = tuner.trainable_parameters(grounder)
    return torch.optim.AdamW(parameters, lr=1e-2) if parameters else None


def train(
    toy: ModuleType,
    grounder: nn.Module,
    tuner: Tuner,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    steps: Iterable[int] = range(STEPS),
    precision: torch.dtype | None = None,
) -> None:
    """Steps as the LightningModule takes them: Lightning puts all in train mode, then the tuner has its say."""
    optimizer = optimizer or make_optimizer(grounder, tuner)
    for step in steps:
        grounder.train()
        tuner.set_training(grounder, True)
        autocast = torch.autocast("cpu", precision, enabled=precision is not None)
        with autocast, tuner.conditioned_on(QUALITIES):
            loss = toy.flat(grounder(*toy.toy_batch(step))).float().square().mean()
            for name, term in tuner.auxiliary_losses(QUALITIES).items():
                loss = loss + tuner.loss_weights[name] * term
        if optimizer is not None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.after_step(grounder, step + 1, STEPS)


def tensors(grounder: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers as copies, under the names they had before injection."""
    return {name.replace(".base_layer", ""): tensor.clone() for name, tensor in grounder.state_dict().items()}


def test_tuning_starts_from_the_pretrained_function(toy, tuner, request):
    grounder, _ = injected(toy, tuner)
    assert not any(module.training for module in grounder.modules())
    expected = toy.flat(toy.pretrained()(*toy.toy_batch()))
    name = request.node.callspec.params["tuner"]
    bound = STARTS_WITHIN.get(name, STARTS_WITHIN.get(name.removesuffix("_inputs"), 0.0))
    for training in (False, True):
        tuner.set_training(grounder, training)
        output = toy.flat(grounder(*toy.toy_batch()))
        assert (output - expected).abs().max() <= bound


def test_the_reference_is_that_of_the_frozen_model_whatever_was_tuned_ahead_of_it(toy, tuner, request):
    if (name := request.node.callspec.params["tuner"]).startswith(("full", "corda")):
        return  # their frozen weights move, and nothing of theirs reads a reference
    seen: list[Tensor] = []
    grounder, _ = injected(toy, tuner)
    grounder.reference_point.register_forward_hook(lambda point, inputs, reference: seen.append(reference.visual))
    frozen = toy.pretrained()
    frozen.reference_point.register_forward_hook(lambda point, inputs, reference: seen.append(reference.visual))
    train(toy, grounder, tuner)
    tuner.set_training(grounder, False)
    seen.clear()
    outputs = [toy.flat(model(*toy.toy_batch())) for model in (grounder, frozen)]
    assert torch.equal(*seen)
    assert torch.equal(*outputs) == (name == "zero_shot")


def test_a_tuner_that_needs_clean_clips_trains_on_none_before_it_has_seen_some(toy, tuner, request):
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    if not tuner.clean_clips:
        assert tuner.is_calibrated(grounder)
        return
    assert not tuner.is_calibrated(grounder)
    with pytest.raises(RuntimeError, match=f"{type(tuner).__name__} has not seen clean clips: call `calibrate` with"):
        tuner.set_training(grounder, True)
    with pytest.raises(ValueError, match="at least one clean clip of the tuning set to calibrate on, got none"):
        tuner.calibrate(grounder, [], lambda batch: grounder(*batch))
    make = TUNERS[request.node.callspec.params["tuner"]]
    first, second = (adapter_state(injected(toy, make(toy))[0]) for _ in range(2))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_only_what_is_listed_trainable_moves(toy, tuner):
    untouched = tensors(toy.ToyGrounder())
    grounder, _ = injected(toy, tuner)
    before = tensors(grounder)
    trainable = {name for name, parameter in grounder.named_parameters() if parameter.requires_grad}
    handed_out = {id(parameter) for parameter in tuner.trainable_parameters(grounder)}
    assert handed_out == {id(grounder.get_parameter(name)) for name in trainable}
    train(toy, grounder, tuner)
    after = tensors(grounder)

    listed = trainable | {
        f"{name}.{buffer}"
        for name, layer in grounder.named_modules()
        if isinstance(layer, TunedLayer)
        for buffer in layer.moving_buffers
    }
    listed |= {name.replace("head.", "alias.0.", 1) for name in listed if name.startswith("head.")}
    assert {name for name, tensor in after.items() if not torch.equal(tensor, before[name])} == listed
    for name, tensor in untouched.items():
        if name not in listed:
            assert after[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@pytest.mark.parametrize("quality", [0, 1])
def test_whatever_a_batch_holds_each_trained_parameter_gets_a_gradient(toy, tuner, quality):
    """Several processes wait for every gradient, and one of them may have clips of one quality alone."""
    grounder, _ = injected(toy, tuner)
    if not (trained := tuner.trainable_parameters(grounder)):
        return
    tuner.set_training(grounder, True)
    qualities = torch.full((3,), quality)
    with tuner.conditioned_on(qualities):
        loss = toy.flat(grounder(*toy.toy_batch())).square().mean()
        terms = tuner.auxiliary_losses(qualities)
        (loss + sum(tuner.loss_weights[name] * term for name, term in terms.items())).backward()
    assert all(parameter.grad is not None for parameter in trained)


def test_frozen_modules_stay_in_eval_mode_and_adapters_follow(toy, tuner):
    grounder, _ = injected(toy, tuner)
    for mode in (True, False, True):
        grounder.train()
        tuner.set_training(grounder, mode)
        adapters = {m for part in grounder.modules() if isinstance(part, TuningModule) for m in part.modules()}
        adapters -= {m for layer in adapters if isinstance(layer, TunedLayer) for m in layer.base_layer.modules()}
        for module in grounder.modules():
            assert module.training == (mode and module in adapters)


def test_every_wrapped_layer_is_called_in_train_and_in_eval(toy, tuner):
    grounder, report = injected(toy, tuner)
    calls: list[nn.Module] = []
    wrapped = [module for module in grounder.modules() if isinstance(module, TunedLayer)]
    for layer in wrapped:
        layer.register_forward_hook(lambda module, *_: calls.append(module))
    for mode in (True, False):
        tuner.set_training(grounder, mode)
        calls.clear()
        grounder(*toy.toy_batch())
        assert set(calls) == set(wrapped)
    assert [layer.name for layer in report.layers] == [
        name for name, module in grounder.named_modules() if isinstance(module, TunedLinear)
    ]


def test_a_wrapped_layer_cannot_be_bypassed(toy, tuner):
    grounder = toy.ToyGrounder()
    tuner.inject(grounder)
    for module in grounder.modules():
        if isinstance(module, TunedLinear):
            assert not hasattr(module, "weight")


@pytest.mark.parametrize(
    "tuner",
    ["full", "lora", "dora", "adalora", "flylora", "corda", "projection", "houlsby", "switch", "nst", "gated_adapter"],
    indirect=True,
)
def test_a_layer_without_weights_is_trained_or_left_out_with_a_warning(toy, tuner, recwarn):
    grounder = toy.ToyGrounder()
    name, layer = next(iter(select_by_name(grounder, toy.TARGETS).items()))
    nn.init.zeros_(layer.weight)
    grounder, report = injected(toy, tuner, grounder)
    train(toy, grounder, tuner, steps=[0])
    assert toy.flat(grounder(*toy.toy_batch())).isfinite().all()
    left_out = bool(report.layers) and name not in {wrapped.name for wrapped in report.layers}
    warned = [str(warning.message) for warning in recwarn if "its weight is zero" in str(warning.message)]
    assert len(warned) == left_out and all(f"'{name}' stays as it is" in words for words in warned)


def test_the_report_counts_and_weights_match_the_losses(toy, tuner):
    grounder = toy.ToyGrounder()
    bare = set(grounder.parameters())
    report = tuner.inject(grounder)
    assert report.method == type(tuner).__name__
    assert report.total == sum(parameter.numel() for parameter in bare | set(grounder.parameters()))
    assert report.trainable == sum(parameter.numel() for parameter in grounder.parameters() if parameter.requires_grad)
    assert f"{report.trainable:,} of {report.total:,}" in str(report)
    grounder(*toy.toy_batch())
    losses = tuner.auxiliary_losses(QUALITIES)
    assert set(losses) == set(tuner.loss_weights)
    assert all(loss.ndim == 0 for loss in losses.values())
    for name, value in tuner.diagnostics().items():
        assert not value.requires_grad
        assert value.shape == ((3,) if name.startswith(("gate/", "router/")) else ())


def test_a_tuner_and_a_model_are_used_once(toy, tuner):
    grounder = toy.ToyGrounder()
    report = tuner.inject(grounder)
    with pytest.raises(RuntimeError, match=f"this {type(tuner).__name__} is already injected"):
        tuner.inject(toy.ToyGrounder())
    if report.layers:
        with pytest.raises(
            RuntimeError, match=r"model without adapters, got one at '(encoder\.l|reference_point|pixels|visual_proj)"
        ):
            ZeroShot().inject(grounder)


@pytest.mark.parametrize(
    ("tuner", "weight"),
    [
        (lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, lambda_router=-1.0), "router -1.0"),
        (lambda toy: NullSpaceTuning(toy.TARGETS, rank=6, lambda_leak=-1.0), "leak -1.0"),
        (lambda toy: GatedLoRA(toy.TARGETS, rank=6, lambda_router=float("nan")), "router nan"),
        (lambda toy: AdaLoRA(toy.TARGETS, rank=6, lambda_orth=-0.5), "orthogonality -0.5"),
    ],
)
def test_a_loss_is_not_weighed_below_zero(tuner, weight):
    grounder = plain.ToyGrounder()
    with pytest.raises(ValueError, match=f"raise a loss that it is to lower, got {weight}; give it at least 0"):
        tuner(plain).inject(grounder)
    assert not any(isinstance(module, TuningModule) for module in grounder.modules())


def test_half_precision_trains_and_answers_as_single_does(toy, tuner):
    grounder, _ = injected(toy, tuner)
    train(toy, grounder, tuner, precision=torch.bfloat16)
    assert all(parameter.isfinite().all() for parameter in grounder.parameters())
    assert {parameter.dtype for parameter in grounder.parameters()} == {torch.float32}
    tuner.set_training(grounder, False)
    single = toy.flat(grounder(*toy.toy_batch()))
    with torch.autocast("cpu", torch.bfloat16):
        half = toy.flat(grounder(*toy.toy_batch()))
        losses = tuner.auxiliary_losses(QUALITIES)
    # The median, for a token near a tie may take another of FlyLoRA's directions, and a few elements jump.
    assert (half.float() - single).abs().median() < 3e-3
    assert {loss.dtype for loss in losses.values()} <= {torch.float32}


def test_an_interrupted_training_goes_on_to_the_same_adapter(toy, tuner, request):
    grounder, _ = injected(toy, tuner)
    optimizer = make_optimizer(grounder, tuner)
    train(toy, grounder, tuner, optimizer, steps=range(2))
    file = io.BytesIO()
    torch.save((adapter_state(grounder), optimizer and optimizer.state_dict(), tuner.training_state()), file)
    train(toy, grounder, tuner, optimizer, steps=range(2, STEPS))

    file.seek(0)
    state, moments, training_state = torch.load(file, weights_only=True)
    twin, twin_tuner = toy.ToyGrounder(), TUNERS[request.node.callspec.params["tuner"]](toy)
    twin_tuner.inject(twin)
    assert not twin.load_state_dict(state, strict=False).unexpected_keys
    twin_tuner.load_training_state(training_state)
    if (twin_optimizer := make_optimizer(twin, twin_tuner)) is not None:
        twin_optimizer.load_state_dict(moments)
    train(toy, twin, twin_tuner, twin_optimizer, steps=range(2, STEPS))
    assert all(torch.equal(tensor, adapter_state(twin)[name]) for name, tensor in adapter_state(grounder).items())


# Rebuilds the toy and each tuner that it finds a file of, loads the adapter, and saves what the models say.
FRESH_PROCESS = """
import importlib.util, sys, torch
from pathlib import Path
folder, toy_path = map(Path, sys.argv[1:])
spec = importlib.util.spec_from_file_location("toy", toy_path)
toy = sys.modules["toy"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)
from stvg_nst import tuning
torch.set_num_threads(1)
torch.manual_seed(99)
outputs = {}
for path in folder.glob("*.safetensors"):
    config = tuning.read_adapter_config(path)
    grounder, tuner = toy.ToyGrounder(), getattr(tuning, config.tuner.rpartition(".")[2])(**config.fields)
    tuner.inject(grounder)
    tuning.load_adapter(path, grounder, tuner)
    outputs[path.stem] = toy.flat(grounder(*toy.toy_batch())).detach()
torch.save(outputs, folder / "outputs.pt")
"""


def test_all_adapters_round_trip_through_a_fresh_process(toy, tmp_path):
    expected = {}
    for name, make in TUNERS.items():
        tuner = make(toy)
        grounder, _ = injected(toy, tuner)
        train(toy, grounder, tuner)
        tuner.set_training(grounder, False)
        expected[name] = toy.flat(grounder(*toy.toy_batch())).detach()
        save_adapter(tmp_path / f"{name}.safetensors", grounder, tuner)
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, tmp_path, toy.__file__], check=True, cwd=ROOT, timeout=120)
    outputs = torch.load(tmp_path / "outputs.pt")
    assert outputs.keys() == expected.keys()
    for name, output in outputs.items():
        torch.testing.assert_close(output, expected[name], atol=0, rtol=0, msg=name)
