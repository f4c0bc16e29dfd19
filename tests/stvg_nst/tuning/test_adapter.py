from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stvg_nst.tuning import (
    AdapterMismatchError,
    FullFineTuning,
    NullSpaceTuning,
    TunedLinear,
    ZeroShot,
    adapter,
    load_adapter,
    read_adapter_config,
    save_adapter,
)

TARGETS = ("encoder.linear2", "decoder.linear2", "head")


@pytest.fixture
def saved(toy, tmp_path):
    """A tuned toy with random adapters, its tuner, and the file they are saved in."""
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6, seed=5)
    tuner.inject(grounder)
    generator = torch.Generator().manual_seed(0)
    for parameter in tuner.trainable_parameters(grounder):
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, grounder, tuner)
    return grounder, tuner, path


def test_the_file_holds_adapters_and_bases_and_nothing_frozen(saved):
    grounder, tuner, path = saved
    names = set(load_file(path))
    trainable = {name for name, parameter in grounder.named_parameters() if parameter.requires_grad}
    bases = {f"{name}.dual_space.{basis}" for name in TARGETS for basis in ("row_basis", "null_basis", "row_image")}
    assert names == trainable | bases
    config = read_adapter_config(path)
    assert config.tuner == "stvg_nst.tuning.nst.NullSpaceTuning"
    assert config.fields["rank"] == 6
    assert config.fields["targets"] == list(TARGETS)
    assert NullSpaceTuning(**{**config.fields, "targets": TARGETS}) == tuner
    assert set(config.fingerprints) == set(TARGETS)


def test_bases_come_from_the_file_and_not_from_a_second_decomposition(toy, saved):
    _, _, path = saved
    state, metadata = load_file(path), adapter.read_adapter_config(path)
    turned = state["head.dual_space.row_basis"].neg()
    text = {adapter.METADATA_KEY: json.dumps(adapter.asdict(metadata))}
    save_file(state | {"head.dual_space.row_basis": turned}, path, metadata=text)
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6)
    tuner.inject(grounder)
    load_adapter(path, grounder, tuner)
    assert torch.equal(grounder.head.dual_space.row_basis, turned)


def test_it_loads_under_other_lambdas_seeds_gates_and_spellings_of_the_targets(toy, saved):
    grounder, _, path = saved
    other = toy.ToyGrounder()
    tuner = NullSpaceTuning(["*coder.linear2", "alias.0"], rank=6, seed=1, lambda_reg=1.0, gate="hard")
    tuner.inject(other)
    load_adapter(path, other, tuner)
    for name, tensor in adapter.adapter_state(grounder).items():
        assert torch.equal(adapter.adapter_state(other)[name], tensor)


def expect_mismatch(toy, path, message, tuner, *, seed: int = 0, change=None) -> None:
    grounder = toy.ToyGrounder(seed)
    if change is not None:
        change(grounder)
    tuner.inject(grounder)
    before = {name: tensor.clone() for name, tensor in grounder.state_dict().items()}
    with pytest.raises(AdapterMismatchError, match=message):
        load_adapter(path, grounder, tuner)
    assert all(torch.equal(tensor, before[name]) for name, tensor in grounder.state_dict().items())


def test_another_weight_is_refused(toy, saved):
    def nudge(grounder):
        weight = grounder.decoder.linear2.weight.data
        weight[3, 7] = torch.nextafter(weight[3, 7], torch.tensor(10.0))

    path = saved[2]
    message = r"in its frozen weights: 'decoder.linear2': expected [0-9a-f]{64}, got [0-9a-f]{64}; load the weights"
    expect_mismatch(toy, path, message, NullSpaceTuning(TARGETS, rank=6), change=nudge)
    expect_mismatch(toy, path, "'encoder.linear2': expected", NullSpaceTuning(TARGETS, rank=6), seed=1)


def test_what_is_frozen_beside_the_tuned_layers_must_be_the_same_too(toy, tmp_path):
    """Full fine-tuning wraps no layer, and yet its decoder belongs to one encoder."""
    path = tmp_path / "adapter.safetensors"
    for tuner in (FullFineTuning(("decoder",)), NullSpaceTuning(("decoder.linear2",), rank=6)):
        grounder = toy.ToyGrounder()
        twin = copy.deepcopy(tuner)
        tuner.inject(grounder)
        for parameter in tuner.trainable_parameters(grounder):
            parameter.data += 1.0
        save_adapter(path, grounder, tuner)
        message = "in what is frozen beside the tuned layers: expected fingerprint [0-9a-f]{12}, got"
        expect_mismatch(toy, path, message, twin, change=lambda grounder: grounder.pixels.bias.data.add_(1e-6))


def test_what_full_fine_tuning_trains_beside_batch_norms_loads_again(toy, tmp_path):
    grounder, tuner = toy.ToyGrounder(), FullFineTuning(("statistics", "encoder"), dropout=True)
    tuner.inject(grounder)
    tuner.set_training(grounder, True)
    assert grounder.encoder.dropout.training
    toy.flat(grounder(*toy.toy_batch())).square().mean().backward()
    torch.optim.SGD(tuner.trainable_parameters(grounder), lr=0.1).step()
    save_adapter(tmp_path / "full.safetensors", grounder, tuner)
    loaded, again = toy.ToyGrounder(), FullFineTuning(("statistics", "encoder"))  # dropout ends with training
    again.inject(loaded)
    load_adapter(tmp_path / "full.safetensors", loaded, again)
    tuner.set_training(grounder, False)
    assert torch.equal(toy.flat(loaded(*toy.toy_batch())), toy.flat(grounder(*toy.toy_batch())))


def test_other_options_layers_or_methods_are_refused(toy, saved):
    path = saved[2]
    expect_mismatch(toy, path, "options: 'rank': expected 6, got 5; use", NullSpaceTuning(TARGETS, rank=5))
    expect_mismatch(toy, path, "'heads': expected 4, got 2", NullSpaceTuning(TARGETS, rank=6, heads=2))
    expect_mismatch(toy, path, r"'head': expected [0-9a-f]{64}, got none", NullSpaceTuning(TARGETS[:2], rank=6))
    expect_mismatch(toy, path, r"made by .*NullSpaceTuning, got .*ZeroShot", ZeroShot())
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6)
    with pytest.raises(AdapterMismatchError, match="got none"):
        load_adapter(path, grounder, tuner)  # not injected


def test_missing_and_misshapen_tensors_are_named_and_the_rest_counted(toy, saved):
    path = saved[2]
    state = load_file(path)
    text = {adapter.METADATA_KEY: json.dumps(adapter.asdict(read_adapter_config(path)))}
    kept = {name: tensor for name, tensor in state.items() if "router" not in name}
    kept["head.dual_space.row_basis"] = torch.zeros(3, 3)
    save_file(kept, path, metadata=text)
    message = r"tensors: 'head.dual_space.row_basis': expected \(3, 3\), got \(16, 6\); .* and 8 more; inject"
    expect_mismatch(toy, path, message, NullSpaceTuning(TARGETS, rank=6))


def test_foreign_torn_and_future_files_are_refused(saved, tmp_path):
    path = saved[2]
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(AdapterMismatchError, match=r"foreign\.safetensors holds no adapter"):
        read_adapter_config(foreign)
    config = adapter.asdict(read_adapter_config(path)) | {"format_version": 3}
    save_file({"a": torch.zeros(1)}, foreign, metadata={adapter.METADATA_KEY: json.dumps(config)})
    with pytest.raises(AdapterMismatchError, match="format 3, this version reads 2"):
        read_adapter_config(foreign)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AdapterMismatchError, match="is no readable safetensors file"):
        read_adapter_config(path)
    with pytest.raises(FileNotFoundError):
        read_adapter_config(tmp_path / "absent.safetensors")


def test_a_failed_save_leaves_the_old_file_and_no_litter(saved, monkeypatch):
    grounder, tuner, path = saved
    before = path.read_bytes()

    def fail(tensors, filename, metadata):
        Path(filename).write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr("stvg_nst.tensor_files.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(path, grounder, tuner)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_of_the_old_file_never_sees_the_new_one_half_written(saved):
    grounder, tuner, path = saved
    before = path.read_bytes()
    with path.open("rb") as reader:
        grounder.head.unit.router.mlp.inner.weight.data.zero_()
        save_adapter(path, grounder, tuner)
        assert reader.read() == before
    assert path.read_bytes() != before


def test_it_loads_in_the_precision_of_the_model(toy, saved):
    grounder, _, path = saved
    other, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6)
    tuner.inject(other)
    adapters = [module for module in other.modules() if isinstance(module, TunedLinear)]
    for layer in adapters:
        layer.unit.double()
    load_adapter(path, other, tuner)
    assert other.head.unit.router.mlp.inner.weight.dtype == torch.float64
    assert torch.equal(other.head.unit.router.mlp.inner.weight.float(), grounder.head.unit.router.mlp.inner.weight)


@pytest.fixture
def of_an_older_version(toy, tmp_path):
    """An adapter with a shared router, of before routers had a threshold and a choice of what they read."""
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6, router="shared", seed=5)
    tuner.inject(grounder)
    path = tmp_path / "older.safetensors"
    save_adapter(path, grounder, tuner)
    config = adapter.asdict(read_adapter_config(path))
    del config["fields"]["router_reads"]
    state = load_file(path)
    del state["reference_point.router.threshold"]
    save_file(state, path, metadata={adapter.METADATA_KEY: json.dumps(config)})
    return path


def test_an_older_file_loads_and_what_it_does_not_say_is_the_default(toy, of_an_older_version):
    grounder, tuner = toy.ToyGrounder(), NullSpaceTuning(TARGETS, rank=6, router="shared", seed=9)
    tuner.inject(grounder)
    load_adapter(of_an_older_version, grounder, tuner)
    assert grounder.reference_point.router.threshold == 0
    name = "reference_point.router.router.mlp.inner.weight"
    assert torch.equal(grounder.get_parameter(name), load_file(of_an_older_version)[name])
    other = NullSpaceTuning(TARGETS, rank=6, router="shared", router_reads="statistics")
    expect_mismatch(toy, of_an_older_version, "'router_reads': expected gap, got statistics", other)
