"""What null-space tuning promises must outlive training: the bound on every layer's leak, and the closed gate.

``|W dX_null| <= sigma_{r+1} |dX_null|`` holds for whatever coefficients training finds, for training never moves the
basis. That is stored in single precision, so it passes its own rounding besides, which is stated and allowed for.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from stvg_nst.tuning import NullSpaceTuning, load_adapter, read_adapter_config, save_adapter
from stvg_nst.tuning.base import InjectionReport
from stvg_nst.tuning.nst import NullSpaceLinear
from stvg_nst.tuning.nst.coefficients import Coefficients

ROOT = Path(__file__).parents[3]
QUALITIES = torch.tensor([0, 1, 1])
EXACT = {"targets": ("encoder.linear2", "decoder.linear2", "head"), "rank": 6}
# Of encoder.linear1 (40 x 16) a null space is approximate, and leaks; of the others, too, beyond the exact one.
LEAKING = {"targets": (*EXACT["targets"], "encoder.linear1"), "rank_rule": "relative", "rank_threshold": 0.4, "rank": 6}
SPACES = {"exact": EXACT, "leaking": LEAKING}


def inject(toy: ModuleType, **options) -> tuple[nn.Module, NullSpaceTuning, InjectionReport]:
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(**options)
    return grounder, tuner, tuner.inject(grounder)


def train(toy: ModuleType, grounder: nn.Module, tuner: NullSpaceTuning, *, steps: int, first: int = 0) -> None:
    """AdamW with a strong weight decay; ``grounder`` may be wrapped for distributed training."""
    inner = getattr(grounder, "module", grounder)
    optimizer = torch.optim.AdamW(tuner.trainable_parameters(inner), lr=1e-2, weight_decay=0.1)
    tuner.set_training(inner, True)
    for step in range(steps):
        output = toy.flat(grounder(*toy.toy_batch(first + step)))
        # One more than the pretrained answer: there is something to learn, for the leaking null branches too.
        loss = (output - 1).square().mean()
        for name, term in tuner.auxiliary_losses(QUALITIES).items():
            loss = loss + tuner.loss_weights[name] * term
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tuner.set_training(inner, False)


def shares_of_the_bound(grounder: nn.Module, report: InjectionReport) -> dict[str, float]:
    """By layer, the largest |W dX_null| of the last forward as a share of ``(sigma_{r+1} + rounding) |dX_null|``.

    Computed in double precision from the coefficients and the basis. An entry of the basis is off by eps / 2 of itself,
    so k columns are off by ``eps / 2 sqrt(k)`` at most in norm; W passes that on by its own norm.
    """
    shares = {}
    leakages = {layer.name: layer.leakage for layer in report.layers}
    for layer in (module for module in grounder.modules() if isinstance(module, NullSpaceLinear)):
        weight, basis = layer.weight_matrix.double(), layer.dual_space.null_basis.detach()
        rounding = (
            torch.finfo(basis.dtype).eps / 2 * math.sqrt(basis.shape[1]) * torch.linalg.matrix_norm(weight, ord=2)
        )
        for call in layer.state.read((layer.name,), close=False)[layer.name]:
            residual = call.null.written().detach().double() @ basis.double().T
            size = torch.linalg.vector_norm(residual, dim=-1)
            assert size.min() > 0, "a null branch that died would prove nothing"
            leak = torch.linalg.vector_norm(residual @ weight.T, dim=-1)
            share = (leak / ((leakages[layer.name] + rounding) * size)).max().item()
            shares[layer.name] = max(share, shares.get(layer.name, 0.0))
    return shares


def answers(toy: ModuleType, grounder: nn.Module, seed: int = 100) -> Tensor:
    with torch.no_grad():
        return toy.flat(grounder(*toy.toy_batch(seed)))


def assert_bounded(shares: Mapping[str, float]) -> None:
    assert shares
    assert max(shares.values()) <= 1, shares


@pytest.fixture(scope="module", params=SPACES)
def trained(request: pytest.FixtureRequest, toy: ModuleType):
    """A toy after 200 steps, by space."""
    grounder, tuner, report = inject(toy, **SPACES[request.param])
    train(toy, grounder, tuner, steps=200)
    return grounder, tuner, report, request.param


# --- the bound on the leak ------------------------------------------------------------------------------------------


def test_the_bound_holds_after_hundreds_of_steps_with_weight_decay(toy, trained):
    grounder, _, report, space = trained
    frozen = toy.flat(toy.pretrained()(*toy.toy_batch(100)))
    assert (answers(toy, grounder) - frozen).abs().max() > 0.1, "nothing was learnt"
    shares = shares_of_the_bound(grounder, report)
    assert_bounded(shares)
    if space == "leaking":
        assert shares["encoder.linear1"] > 0.05, "the bound is not idle"


def test_the_bound_holds_under_autocast(toy, trained):
    grounder, _, report, _ = trained
    with torch.autocast("cpu", torch.bfloat16):
        answers(toy, grounder)
    call = grounder.head.state.read(("head",), close=False)["head"][0]
    assert call.null.written().dtype == torch.bfloat16, "the coefficients are those of the lower precision"
    assert_bounded(shares_of_the_bound(grounder, report))


def test_a_residual_that_is_rounded_leaks_its_rounding_and_no_more(toy, trained):
    grounder, _, report, _ = trained
    leakages = {layer.name: layer.leakage for layer in report.layers}
    for layer in (module for module in grounder.modules() if isinstance(module, NullSpaceLinear)):
        space, weight = layer.dual_space, layer.weight_matrix.double()
        null = torch.randn(50, space.null_basis.shape[1], generator=torch.Generator().manual_seed(0))
        row = torch.zeros(50, space.row_basis.shape[1])
        coefficients = (Coefficients(c, torch.eye(c.shape[1]), torch.zeros(c.shape[1])) for c in (row, null))
        with torch.autocast("cpu", torch.bfloat16):
            residual = space.residual(torch.zeros(()), *coefficients)
        assert residual.dtype == torch.bfloat16
        # Coefficients, basis and result are rounded, once each.
        terms = 2 + math.sqrt(null.shape[1])
        rounding = terms * torch.finfo(torch.bfloat16).eps / 2 * torch.linalg.matrix_norm(weight, ord=2)
        size = torch.linalg.vector_norm(residual.double(), dim=-1)
        leak = torch.linalg.vector_norm(residual.double() @ weight.T, dim=-1)
        assert (leak <= (leakages[layer.name] + 1.01 * rounding) * size).all()


def test_a_learned_basis_breaks_the_bound(toy):
    # The control: with a basis that training may move, nothing holds, and these tests see it.
    grounder, tuner, report = inject(toy, **EXACT, basis="learned")
    train(toy, grounder, tuner, steps=5)
    answers(toy, grounder)
    assert min(shares_of_the_bound(grounder, report).values()) > 1e3


# --- the closed gate ------------------------------------------------------------------------------------------------


def test_a_closed_gate_gives_the_frozen_model_back_bit_for_bit_after_hundreds_of_steps(toy, trained):
    grounder, tuner, _, space = trained
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            frozen = answers(toy, toy.pretrained())
            with tuner.bypass():
                assert torch.equal(answers(toy, grounder), frozen)
            with tuner.override_gate(0.0):
                assert torch.equal(answers(toy, grounder), frozen) == (space == "exact")
            assert not torch.equal(answers(toy, grounder), frozen)


GATES = {
    "soft": {},
    "soft-shared": {"router": "shared"},
    "soft-frame": {"gate_per": "frame"},
    "hard": {"gate": "hard"},
    "hard-shared": {"gate": "hard", "router": "shared"},
    "hard-shared-frame": {"gate": "hard", "router": "shared", "gate_per": "frame"},
    "oracle": {"gate": "oracle"},
    "open": {"gate": "open"},
    "pooled": {"coefficients_per": "clip", "retrieval_width": 8, "router": "shared"},
    "no-null-branch": {"null_branch": False},
}


@pytest.fixture(params=GATES)
def gated(request: pytest.FixtureRequest, toy: ModuleType):
    """A toy after three steps, in each mode of the gate, and the mode's options."""
    grounder, tuner, _ = inject(toy, **EXACT, **GATES[request.param])
    with tuner.conditioned_on(QUALITIES):
        train(toy, grounder, tuner, steps=3)
    return grounder, tuner, GATES[request.param]


def test_every_kind_of_gate_closes(toy, gated):
    grounder, tuner, _ = gated
    frozen = answers(toy, toy.pretrained())
    with tuner.override_gate(0.0):
        assert torch.equal(answers(toy, grounder), frozen)
    with tuner.override_gate(1.0):
        assert not torch.equal(answers(toy, grounder), frozen)


def test_diagnostics_of_every_kind_of_gate(toy, gated):
    grounder, tuner, options = gated
    with tuner.conditioned_on(QUALITIES):
        answers(toy, grounder)
    values = tuner.diagnostics()
    kinds = {"gate", "row_energy", "null_energy", "row_share", "row_share_before", "leakage"}
    if options.get("gate") not in ("oracle", "open"):
        kinds.add("router")
    assert values.keys() == {f"{kind}/{layer}" for kind in kinds for layer in EXACT["targets"]}
    for name, value in values.items():
        assert value.isfinite().all()
        assert value.shape == ((3,) if name.startswith(("gate/", "router/")) else ())
        if "share" in name:
            assert 0 <= value <= 1


# --- other processes ------------------------------------------------------------------------------------------------

# Loads this file and the toy, runs the named function of this file with the rest of the arguments.
CHILD = """
import importlib.util, sys, torch
def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
torch.set_num_threads(1)
here, toy, function, *arguments = sys.argv[1:]
getattr(load("preservation", here), function)(load("toy", toy), *arguments)
"""


def start(toy: ModuleType, function: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", CHILD, __file__, toy.__file__, function, *arguments], cwd=ROOT)


def verdict(toy: ModuleType, grounder: nn.Module, tuner: NullSpaceTuning, report: InjectionReport) -> dict:
    """What a child tells its parent, as JSON values."""
    own = answers(toy, grounder)
    shares = shares_of_the_bound(grounder, report)
    with tuner.override_gate(0.0):
        closed = torch.equal(answers(toy, grounder), answers(toy, toy.pretrained()))
    return {"shares": shares, "closed": closed, "own": own.tolist()}


def judge_file(toy: ModuleType, adapter: str, output: str) -> None:
    """In a fresh process: judge an adapter from its file alone."""
    grounder, tuner, report = inject(toy, **read_adapter_config(adapter).fields)
    load_adapter(adapter, grounder, tuner)
    Path(output).write_text(json.dumps(verdict(toy, grounder, tuner, report)))


def judge_rank(toy: ModuleType, rank: str, world_size: str, store: str, output: str) -> None:
    """In each process of a distributed run: train on data of its own, then judge."""
    files = torch.distributed.FileStore(store, int(world_size))
    torch.distributed.init_process_group("gloo", store=files, rank=int(rank), world_size=int(world_size))
    try:
        grounder, tuner, report = inject(toy, **LEAKING, seed=0)
        train(toy, nn.parallel.DistributedDataParallel(grounder), tuner, steps=20, first=1000 * int(rank))
    finally:
        torch.distributed.destroy_process_group()
    with torch.no_grad():
        Path(output).write_text(json.dumps(verdict(toy, grounder, tuner, report)))


@pytest.mark.slow
def test_what_was_promised_holds_in_a_fresh_process(toy, trained, tmp_path):
    grounder, tuner, _, space = trained
    adapter, output = tmp_path / "adapter.safetensors", tmp_path / "verdict.json"
    save_adapter(adapter, grounder, tuner)
    assert start(toy, "judge_file", str(adapter), str(output)).wait(timeout=120) == 0
    found = json.loads(output.read_text())
    assert_bounded(found["shares"])
    assert found["closed"] == (space == "exact")
    assert torch.equal(torch.tensor(found["own"]), answers(toy, grounder))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_what_was_promised_holds_after_a_distributed_run(toy, tmp_path, world_size):
    outputs = [tmp_path / f"verdict-{rank}.json" for rank in range(world_size)]
    store = str(tmp_path / "store")
    children = [
        start(toy, "judge_rank", str(rank), str(world_size), store, str(output)) for rank, output in enumerate(outputs)
    ]
    assert [child.wait(timeout=240) for child in children] == [0] * world_size
    verdicts = [json.loads(output.read_text()) for output in outputs]
    for found in verdicts:
        assert_bounded(found["shares"])
        assert found["own"] == verdicts[0]["own"], "the processes hold one model"
