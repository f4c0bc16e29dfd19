from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from stvg_nst.nullspace import fingerprint, measure_spectrum, split_dual_space, weight_matrix

SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (9, 9), "head": (1, 12)}
RULES = [("exact", None), ("relative", 0.3), ("energy", 0.9)]


def random_weight(
    seed: int, shape: tuple[int, int], rank: int | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Gaussian, or a product of two of rank many columns, rounded once to its dtype."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape] if rank is None else [(shape[0], rank), (rank, shape[1])]
    factors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return (factors[0] if rank is None else factors[0] @ factors[1]).to(dtype)


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@pytest.mark.parametrize("rank", [None, 1, 4])
@pytest.mark.parametrize("kind", SHAPES)
def test_spaces_are_orthonormal_complete_and_leak_no_more_than_they_say(kind, rank, rule, threshold):
    for seed in range(10):
        shape = SHAPES[kind]
        rank = None if rank is None else min(rank, *shape)
        weight = random_weight(seed, shape, rank)
        space = split_dual_space(weight, rule=rule, threshold=threshold)

        if rule == "exact":
            assert space.rank == (min(shape) if rank is None else rank)
            assert space.exact
        assert space.shape == shape
        assert (space.row.shape, space.null.shape) == ((shape[1], space.rank), (shape[1], space.nullity))
        assert space.rank + space.nullity == shape[1]
        assert space.rank_ratio == pytest.approx(1 - space.nullity / shape[1], abs=1e-15)
        basis = torch.cat([space.row, space.null], dim=1)
        torch.testing.assert_close(basis.T @ basis, torch.eye(shape[1]).double(), atol=1e-12, rtol=0)
        vector = torch.randn(shape[1], generator=torch.Generator().manual_seed(seed)).double()
        parts = space.row @ (space.row.T @ vector) + space.null @ (space.null.T @ vector)
        torch.testing.assert_close(parts, vector, atol=1e-12, rtol=0)

        coefficients = torch.randn(space.nullity, 50, generator=torch.Generator().manual_seed(seed)).double()
        leaked = torch.linalg.vector_norm(weight.double() @ space.null @ coefficients, dim=0)
        assert (leaked <= space.leakage * torch.linalg.vector_norm(coefficients, dim=0) + 1e-12).all()
        assert space.leakage == pytest.approx(space.sigma_next, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_null_residual_passes_at_most_sigma_next(kind, dtype, rule, threshold):
    """``|W dX| <= sigma_{r+1} |dX|``, and ``sigma_1 eps / 2 |dX|`` more once dX is rounded to the weight's dtype."""
    info = torch.finfo(dtype)
    for seed in range(5):
        for rank in (None, 1, 3):
            weight = random_weight(seed, SHAPES[kind], None if rank is None else min(rank, *SHAPES[kind]), dtype)
            space = split_dual_space(weight, rule=rule, threshold=threshold)
            largest = space.singular_values[0].item()
            coefficients = torch.randn(space.nullity, 20, generator=torch.Generator().manual_seed(seed)).double()
            residual = space.null @ coefficients
            size = torch.linalg.vector_norm(residual, dim=0)

            leaked = torch.linalg.vector_norm(weight.double() @ residual, dim=0)
            arithmetic = 1e-14 * largest * size
            assert (leaked <= space.sigma_next * size + arithmetic).all()

            leaked = torch.linalg.vector_norm(weight.double() @ residual.to(dtype).double(), dim=0)
            # Entries below the smallest normal number are rounded to a fixed grid.
            rounding = largest * (info.eps / 2 * size + info.eps * info.smallest_normal * space.shape[1])
            assert (leaked <= space.sigma_next * size + rounding + arithmetic).all()


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_spectrum_says_what_the_spaces_say(kind, rule, threshold):
    for seed in range(5):
        weight = random_weight(seed, SHAPES[kind])
        space = split_dual_space(weight, rule=rule, threshold=threshold)
        spectrum = measure_spectrum(weight, rule=rule, threshold=threshold)
        for name in ("shape", "rank", "nullity", "rank_ratio", "exact"):
            assert getattr(spectrum, name) == getattr(space, name)
        assert spectrum.sigma_next == pytest.approx(space.sigma_next, abs=1e-12)
        assert spectrum.noise == pytest.approx(space.noise)
        torch.testing.assert_close(spectrum.singular_values, space.singular_values)


def test_the_rank_ratio_counts_what_the_input_loses():
    wide, square = random_weight(0, (4, 16)), random_weight(0, (4, 4))
    assert measure_spectrum(wide).rank_ratio == 0.25  # full rank, but blind to three quarters of its input
    assert measure_spectrum(square).rank_ratio == 1.0
    assert measure_spectrum(wide.T).rank_ratio == 1.0


def test_null_directions_fall_in_leakage():
    weight = random_weight(0, (9, 9))
    space = split_dual_space(weight, rule="relative", threshold=0.6)
    leaks = torch.linalg.vector_norm(weight.double() @ space.null, dim=0)
    assert space.nullity > 2
    assert (leaks[:-1] >= leaks[1:]).all()
    assert not space.exact


def test_relative_takes_what_lies_above_the_share_of_the_largest():
    weight = torch.diag(torch.tensor([4.0, 2.0, 0.3, 0.1]))
    space = split_dual_space(weight, rule="relative", threshold=0.1)
    assert (space.rank, space.nullity) == (2, 2)
    assert space.leakage == space.sigma_next == pytest.approx(0.3)
    assert split_dual_space(weight, rule="relative", threshold=0.5).rank == 1  # above the share, not at it


def test_energy_takes_the_fewest_that_hold_the_share_of_the_squares():
    weight = torch.diag(torch.tensor([3.0, 1.0, 0.0, 2.0, 1.0]))  # squares 9, 4, 1, 1, 0 of 15
    ranks = {0.1: 1, 9 / 15: 1, 0.61: 2, 13 / 15: 2, 0.9: 3, 14 / 15: 3, 0.94: 4, 1: 4}
    for threshold, rank in ranks.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the third and the fourth tie
            space = split_dual_space(weight, rule="energy", threshold=threshold)
        assert space.rank == rank, threshold
    assert (space.sigma_next, space.exact) == (0.0, True)
    assert split_dual_space(torch.zeros(2, 3), rule="energy", threshold=1).rank == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_default_cut_follows_the_precision_of_the_weight(dtype):
    # Rounding lifts the zero singular values of a rank-deficient weight, and must not be taken for rank.
    for seed in range(5):
        assert split_dual_space(random_weight(seed, (32, 96), 3, dtype)).rank == 3
        assert split_dual_space(random_weight(seed, (32, 96), None, dtype)).rank == 32


def test_half_precision_of_a_real_width_keeps_its_row_space():
    weight = random_weight(0, (64, 1024), dtype=torch.bfloat16)  # max(shape) * eps * sigma_max exceeds sigma_max here
    assert split_dual_space(weight).rank == 64


def test_zero_weight_is_all_null():
    space = split_dual_space(torch.zeros(3, 5))
    assert (space.rank, space.nullity, space.leakage, space.exact) == (0, 5, 0.0, True)


def test_signs_are_fixed_and_repeatable():
    for seed in range(10):
        weight = random_weight(seed, (6, 20))
        first, second = split_dual_space(weight), split_dual_space(weight)
        assert torch.equal(first.row, second.row)
        assert torch.equal(first.null, second.null)
        torch.testing.assert_close(split_dual_space(-weight).row, first.row, atol=1e-10, rtol=0)
        for basis in (first.row, first.null):
            assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()


def test_a_tie_at_the_cut_warns_and_nothing_else_does():
    tied = torch.diag(torch.tensor([4.0, 1.0, 1.0, 0.5]))
    orthogonal = torch.linalg.qr(random_weight(0, (4, 4)).double()).Q
    weight = (orthogonal @ tied.double()).float()
    spectrum = split_dual_space(weight).singular_values
    between = ((spectrum[1] + spectrum[2]) / 2 / spectrum[0]).item()  # the two differ by rounding
    with pytest.warns(UserWarning, match=r"singular values 2 and 3 tie \((1|0\.9999).*choose a threshold") as caught:
        split_dual_space(weight, rule="relative", threshold=between)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_dual_space(weight)
        split_dual_space(weight, rule="relative", threshold=0.2)
        split_dual_space(torch.eye(4))
        split_dual_space(torch.diag(torch.tensor([1.0, 1e-7, 0.0])).double())  # an exact null space, however small
        split_dual_space(random_weight(0, (9, 9), 4))


def test_fingerprint_tells_bits_shape_and_dtype():
    weight = random_weight(0, (3, 4))
    other = weight.clone()
    other[2, 3] = torch.nextafter(other[2, 3], torch.tensor(10.0))
    prints = [fingerprint(t) for t in (weight, other, weight.view(4, 3), weight.view(torch.int32), weight.T)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(weight.clone().T.contiguous().T) == prints[0]
    assert fingerprint(torch.nn.Parameter(weight)) == prints[0]
    assert len(fingerprint(weight.bfloat16())) == 64


def test_the_weight_of_a_pointwise_convolution_is_that_of_a_linear_layer():
    linear = nn.Linear(6, 4)
    x = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = linear(x.transpose(1, 2)).transpose(1, 2)
    assert weight_matrix(linear) is linear.weight
    for spatial, convolution in ((), nn.Conv1d(6, 4, 1)), ((1,), nn.Conv2d(6, 4, 1)), ((1, 1), nn.Conv3d(6, 4, 1)):
        with torch.no_grad():
            convolution.weight.copy_(linear.weight.reshape(convolution.weight.shape))
            convolution.bias.copy_(linear.bias)
        torch.testing.assert_close(convolution(x.reshape(*x.shape, *spatial)).reshape(expected.shape), expected)
        assert torch.equal(weight_matrix(convolution), linear.weight)
        assert weight_matrix(convolution).data_ptr() == convolution.weight.data_ptr()
        assert split_dual_space(weight_matrix(convolution)).fingerprint == fingerprint(linear.weight)


def test_what_is_no_matrix_has_no_weight_matrix():
    for layer, message in {
        nn.Conv2d(4, 4, (1, 3)): r"got kernel size \(1, 3\) and 1 group",
        nn.Conv1d(4, 4, 1, groups=2): r"got kernel size \(1,\) and 2 group",
        nn.Embedding(4, 4): "expected nn.Linear or a convolution with kernel size 1, got Embedding",
        nn.ConvTranspose1d(4, 4, 1): "got ConvTranspose1d",
    }.items():
        with pytest.raises(ValueError, match=message):
            weight_matrix(layer)


@pytest.mark.parametrize("look", [split_dual_space, measure_spectrum])
def test_refuses_what_is_no_finite_matrix(look):
    weight = random_weight(0, (3, 4))
    weight[0, 0], weight[2, 1] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="2 of 12 entries inf or nan"):
        look(weight)
    with pytest.raises(ValueError, match=r"floating-point weight, got torch\.int8; leave the layer out"):
        look(torch.ones(3, 4, dtype=torch.int8))
    with pytest.raises(ValueError, match=r"\(d_out, d_in\), got shape \(0, 4\)"):
        look(torch.ones(0, 4))
    with pytest.raises(ValueError, match=r"\(d_out, d_in\), got shape \(5,\)"):
        look(torch.zeros(5))


@pytest.mark.parametrize("look", [split_dual_space, measure_spectrum])
def test_refuses_a_threshold_that_does_not_fit_its_rule(look):
    for rule, interval, thresholds in (
        ("relative", r"\(0, 1\)", (None, 0.0, 1.0, -0.1, float("nan"))),
        ("energy", r"\(0, 1\]", (None, 0.0, 1.1, -0.1, float("nan"))),
    ):
        for threshold in thresholds:
            with pytest.raises(
                ValueError, match=rf"rule '{rule}' needs a threshold, .* in {interval}, got {threshold}"
            ):
                look(torch.eye(3), rule=rule, threshold=threshold)
    with pytest.raises(ValueError, match=r"rule 'exact' .* takes no threshold, got 0\.1"):
        look(torch.eye(3), threshold=0.1)
    with pytest.raises(ValueError, match="one of exact, relative, energy, got 'tolerance'"):
        look(torch.eye(3), rule="tolerance")


@pytest.mark.parametrize(("rule", "threshold"), RULES)
@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_the_split_does_not_hang_on_the_size_of_the_numbers(size, rule, threshold):
    weight = random_weight(0, (6, 20), rank=3, dtype=torch.float64)
    space = split_dual_space(weight * size, rule=rule, threshold=threshold)
    plain = split_dual_space(weight, rule=rule, threshold=threshold)
    assert space.rank == plain.rank and space.exact == plain.exact
    assert space.noise == pytest.approx(plain.noise * size)


def test_what_storage_below_the_normal_numbers_rounds_is_noise():
    weight = random_weight(0, (8, 20), rank=3, dtype=torch.float64) * 1e-42
    space = split_dual_space(weight.float())  # of steps of 1.4e-45
    assert space.rank == 3 and space.exact
