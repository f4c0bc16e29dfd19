"""Coefficients that are kept as a product say what the same coefficients say that are written down."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.tuning.nst.coefficients import Coefficients


def product(*shape: int, rank: int = 5, width: int = 3) -> Coefficients:
    generator = torch.Generator().manual_seed(0)
    sizes = ((*shape, width), (rank, width), (rank,))
    return Coefficients(*(torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes))


@pytest.mark.parametrize(("width", "d_out"), [(2, 7), (6, 4), (40, 30)])
@pytest.mark.parametrize("gate_shape", [(2, 1, 1), (2, 4, 1)])
def test_a_map_of_gated_coefficients_is_the_map_of_their_values(width, d_out, gate_shape):
    coefficients = product(2, 4, width=width)
    gate, matrix = torch.rand(gate_shape, dtype=torch.float64), torch.randn(d_out, 5, dtype=torch.float64)
    torch.testing.assert_close(coefficients.gated(gate).written(), gate * coefficients.written())
    torch.testing.assert_close(coefficients.mapped(matrix), coefficients.written() @ matrix.T)
    torch.testing.assert_close(coefficients.gated(gate).mapped(matrix), gate * coefficients.written() @ matrix.T)


@pytest.mark.parametrize(("written", "width", "d_out"), [(False, 32, 96), (True, 384, 96)])
def test_the_smaller_matrices_are_multiplied(monkeypatch, written, width, d_out):
    """64 coefficients of 32 activations are not worth writing down on the way to 96 outputs, those of 384 are."""
    coefficients = product(1, 2, rank=64, width=width)
    sizes: list[int] = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr("torch.nn.functional.linear", lambda x, *args: sizes.append(x.shape[-1]) or linear(x, *args))
    coefficients.mapped(torch.randn(d_out, 64, dtype=torch.float64))
    assert sizes == ([width, 64] if written else [64, width])


@pytest.mark.parametrize("pooled", ["token", "frame", "clip"])
def test_the_energy_is_that_of_the_real_tokens_whatever_padding_holds(pooled):
    mask = torch.tensor([[[True, True], [True, False], [False, False]], [[True, False]] * 3])
    shape = {"token": (2, 3, 2), "frame": (2, 3, 1), "clip": (2, 1, 1)}[pooled]
    coefficients = product(*shape)._replace(hidden=product(*shape).hidden.float().requires_grad_())
    weight, bias = coefficients.weight.float().requires_grad_(), coefficients.bias.float().requires_grad_()
    coefficients = Coefficients(coefficients.hidden, weight, bias)
    expected = coefficients.written().expand(*mask.shape, 5)[mask].square().sum()
    torch.testing.assert_close(coefficients.energy(mask), expected)
    for got, want in zip(
        torch.autograd.grad(coefficients.energy(mask), coefficients),
        torch.autograd.grad(expected, coefficients),
        strict=True,
    ):
        torch.testing.assert_close(got, want)

    if pooled == "token":
        broken = coefficients.hidden.detach().masked_fill(~mask[..., None], float("inf")).requires_grad_()
        energy = coefficients._replace(hidden=broken).energy(mask)
        torch.testing.assert_close(energy, expected)
        assert torch.autograd.grad(energy, broken)[0].isfinite().all()


def test_the_energy_of_no_clip_is_zero_and_keeps_the_head_in_the_graph():
    coefficients = product(2, 3)
    coefficients.weight.requires_grad_()
    nobody = torch.tensor([], dtype=torch.int64)
    energy = coefficients.of_clips(nobody).energy(torch.ones(2, 3, dtype=torch.bool)[nobody])
    assert energy.item() == 0
    energy.backward()
    assert torch.equal(coefficients.weight.grad, torch.zeros_like(coefficients.weight))


def test_the_energy_stays_in_single_precision_under_autocast():
    coefficients = Coefficients(*(tensor.float() for tensor in product(2, 3)))
    mask = torch.ones(2, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        energy = coefficients.energy(mask)
    assert energy.dtype == torch.float32
    assert torch.equal(energy, coefficients.energy(mask))
