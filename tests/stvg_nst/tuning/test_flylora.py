"""FlyLoRA on the toy grounder; what every tuner must fulfil is in test_contract.py."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn

from stvg_nst.tuning import FlyLoRA, save_adapter
from stvg_nst.tuning.flylora import FlyLoraLinear, Selection, sparse_projection

TARGETS = ("encoder.linear2", "decoder.linear2", "head")


def by_hand(selection: Selection = "magnitude", *, active: int = 1) -> FlyLoraLinear:
    """z = x (3 directions), b = (1, 10, 100) to one output, scale 2, over a frozen layer that says 0."""
    base_layer = nn.Linear(3, 1).requires_grad_(False)
    nn.init.zeros_(base_layer.weight)
    nn.init.zeros_(base_layer.bias)
    layer = FlyLoraLinear(base_layer, torch.eye(3), active=active, scale=2.0, selection=selection, dropout=0.0)
    layer.experts.data = torch.tensor([[1.0, 10.0, 100.0]])
    return layer


@pytest.mark.parametrize(
    ("selection", "active", "bias", "expected"),
    [
        ("magnitude", 1, [0.0, 0.0, 0.0], 2 * -300),
        ("signed", 1, [0.0, 0.0, 0.0], 2 * 20),
        ("magnitude", 2, [0.0, 0.0, 0.0], 2 * (20 - 300)),
        ("magnitude", 3, [0.0, 0.0, 0.0], 2 * (1 + 20 - 300)),
        # |z + d| = (1, 2, 1.5) and z + d = (3.5, 2, -3): the bias chooses, and the value stays z.
        ("magnitude", 1, [0.0, 0.0, 1.5], 2 * 20),
        ("signed", 1, [2.5, 0.0, 0.0], 2 * 1),
    ],
)
def test_a_token_keeps_its_largest_directions(selection, active, bias, expected):
    layer = by_hand(selection, active=active)
    layer.routing_bias.copy_(torch.tensor(bias))
    assert layer(torch.tensor([[[1.0, 2.0, -3.0]]])).item() == expected


def test_each_token_chooses_for_itself_and_gradients_reach_its_input_and_its_expert_only():
    layer = by_hand()
    x = torch.tensor([[[1.0, 0.5, 0.0], [0.0, -0.5, 2.0]]], requires_grad=True)
    output = layer(x)
    assert output.flatten().tolist() == [2.0, 400.0]
    output.sum().backward()
    assert x.grad.tolist() == [[[2.0, 0.0, 0.0], [0.0, 0.0, 200.0]]]
    assert layer.experts.grad.tolist() == [[2.0, 0.0, 4.0]]


def test_the_projection_is_sparse_in_every_row_and_of_the_given_deviation():
    torch.manual_seed(0)
    projection = sparse_projection(64, 400, share=0.25, std=1 / 64)
    assert (projection != 0).sum(dim=1).tolist() == [100] * 64
    assert projection[projection != 0].std().item() == pytest.approx(1 / 64, rel=0.05)
    assert len({tuple(row.nonzero().flatten().tolist()) for row in projection}) == 64
    assert (sparse_projection(3, 5, share=0.01, std=1.0) != 0).sum(dim=1).tolist() == [1, 1, 1]


def test_a_capped_layer_has_fewer_of_the_same_directions(toy):
    grounder = toy.ToyGrounder()
    FlyLoRA(["encoder.linear2", "head"], rank=16, alpha=8, active_share=0.5).inject(grounder)
    wide, narrow = grounder.encoder.linear2, grounder.head  # 16 x 40 and 9 x 16
    assert (wide.active, narrow.active) == (8, 4)
    assert (wide.scale, narrow.scale) == (0.5, 0.5)
    for layer, filled in ((wide, 20), (narrow, 8)):
        assert set((layer.projection != 0).sum(dim=1).tolist()) == {filled}
        assert layer.projection[layer.projection != 0].std().item() == pytest.approx(1 / 16, rel=0.25)


# --- balance --------------------------------------------------------------------------------------------------------


def model_of(layer: FlyLoraLinear) -> tuple[nn.Module, FlyLoRA]:
    return nn.Sequential(layer), FlyLoRA(["0"], rank=3, bias_step=0.5)


def test_the_bias_favours_directions_that_fewer_tokens_kept_than_the_mean():
    model, tuner = model_of(by_hand())
    model.train()
    model(torch.eye(3)[[0, 0, 0, 1, 0]])  # kept 4, 1 and 0 times, 5 / 3 on average
    tuner.after_step(model, 1, 10)
    assert model[0].routing_bias.tolist() == [-0.5, 0.5, 0.5]
    tuner.after_step(model, 2, 10)  # nothing was counted since
    assert model[0].routing_bias.tolist() == [-0.5, 0.5, 0.5]


def test_batches_of_one_step_count_together():
    model, tuner = model_of(by_hand())
    model.train()
    model(torch.eye(3)[[0, 0, 0, 1]])
    model(torch.eye(3)[[1, 1, 1, 1, 1, 2, 2, 2]])  # 3, 6 and 3 in all, 4 on average
    assert model[0].routing_bias.tolist() == [0, 0, 0]
    tuner.after_step(model, 1, 10)
    assert model[0].routing_bias.tolist() == [0.5, -0.5, 0.5]


def test_evaluation_neither_counts_nor_moves_the_bias():
    model, tuner = model_of(by_hand())
    model.eval()
    model(torch.eye(3)[[0, 0, 0, 1]])
    tuner.after_step(model, 1, 10)
    assert model[0].routing_bias.tolist() == [0, 0, 0]


def balance_on(rank: int, store: str, results: multiprocessing.Queue[tuple[int, list[float], list[float]]]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    model, tuner = nn.Sequential(by_hand(), by_hand()), FlyLoRA(["0"], rank=3, bias_step=0.5)
    model.train()
    # Alone, the first would push direction 0 down and 1 up, and the second the other way round.
    kept = [0, 0, 0, 1] if rank == 0 else [1, 1, 1, 1, 1, 0, 2]
    model[0](torch.eye(3)[kept])
    if rank == 1:
        model[1](torch.eye(3)[[2]])  # a layer that ran on one process only
    tuner.after_step(model, 1, 10)
    results.put((rank, *(layer.routing_bias.tolist() for layer in model)))
    dist.destroy_process_group()


def test_processes_count_together(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=balance_on, args=(rank, str(tmp_path / "store"), results)) for rank in range(2)]
    for process in processes:
        process.start()
    answers = sorted(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    # Kept 4, 6 and 1 times in all, 11 / 3 on average; the second layer 0, 0 and 1 times.
    assert answers == [(rank, [-0.5, -0.5, 0.5], [0.5, 0.5, -0.5]) for rank in range(2)]


def test_the_bias_evens_the_load_out():
    torch.manual_seed(0)
    model = nn.Sequential(by_hand("signed"))
    tuner = FlyLoRA(["0"], rank=3, bias_step=0.02)
    model.train()
    shares: list[Tensor] = []
    for step in range(100):
        model(torch.randn(300, 3) + torch.tensor([1.0, 0.0, -1.0]))
        shares.append(model[0]._counts / 300)
        tuner.after_step(model, step + 1, 100)
    assert shares[0].max() > 0.6
    assert shares[-1].max() < 0.45


# --- the life of an adapter -----------------------------------------------------------------------------------------


def test_the_file_holds_projection_bias_and_experts(toy, tmp_path):
    grounder, tuner = toy.ToyGrounder(), FlyLoRA(TARGETS, rank=6)
    tuner.inject(grounder)
    tuner.set_training(grounder, True)
    grounder(*toy.toy_batch())  # what is counted is of the moment, and not of the adapter
    save_adapter(tmp_path / "adapter.safetensors", grounder, tuner)
    names = set(load_file(tmp_path / "adapter.safetensors"))
    assert names == {f"{layer}.{part}" for layer in TARGETS for part in ("projection", "routing_bias", "experts")}


def test_the_bias_keeps_single_precision_over_a_weight_of_half(toy):
    grounder = toy.ToyGrounder().bfloat16()
    FlyLoRA(TARGETS, rank=6).inject(grounder)
    assert grounder.head.routing_bias.dtype == torch.float32
    assert grounder.head.experts.dtype == grounder.head.projection.dtype == torch.bfloat16
    frames, frame_mask, queries = toy.toy_batch(dtype=torch.bfloat16)
    assert toy.flat(grounder(frames, frame_mask, queries)).dtype == torch.bfloat16


def test_it_is_not_merged(toy):
    grounder = toy.ToyGrounder()
    FlyLoRA(TARGETS, rank=6).inject(grounder)
    with pytest.raises(ValueError, match="FlyLoraLinear cannot be merged: what it adds is no fixed matrix"):
        grounder.head.merged()


def test_nonsense_is_refused_with_its_value():
    for share in (0, -0.5, 1.5):
        with pytest.raises(ValueError, match=rf"active_share must lie in \(0, 1\], got {share}; change"):
            FlyLoRA(TARGETS, active_share=share)
    with pytest.raises(ValueError, match="selection must be one of magnitude, signed, got 'loudest'"):
        FlyLoRA(TARGETS, selection="loudest")
    with pytest.raises(ValueError, match="bias_step must not be negative, got -1"):
        FlyLoRA(TARGETS, bias_step=-1)
