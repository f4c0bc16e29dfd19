from __future__ import annotations

import warnings

import pytest
import torch

from stvg_nst.nullspace import fingerprint, split_dual_space

SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (9, 9), "head": (1, 12)}


def random_weight(
    seed: int, shape: tuple[int, int], rank: int | None = None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Gaussian, or a product of two of rank many columns, rounded once to its dtype."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [shape] if rank is None else [(shape[0], rank), (rank, shape[1])]
    factors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return (factors[0] if rank is None else factors[0] @ factors[1]).to(dtype)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("rank", [None, 1, 4])
@pytest.mark.parametrize("tolerance", [None, 0.3])
def test_spaces_are_orthonormal_complete_and_leak_no_more_than_they_say(kind, rank, tolerance):
    for seed in range(10):
        shape = SHAPES[kind]
        rank = None if rank is None else min(rank, *shape)
        weight = random_weight(seed, shape, rank)
        space = split_dual_space(weight, tolerance=tolerance)

        if tolerance is None:
            assert space.rank == (min(shape) if rank is None else rank)
            assert space.exact
        assert space.rank + space.nullity == shape[1]
        basis = torch.cat([space.row, space.null], dim=1)
        torch.testing.assert_close(basis.T @ basis, torch.eye(shape[1]).double(), atol=1e-12, rtol=0)
        vector = torch.randn(shape[1], generator=torch.Generator().manual_seed(seed)).double()
        parts = space.row @ (space.row.T @ vector) + space.null @ (space.null.T @ vector)
        torch.testing.assert_close(parts, vector, atol=1e-12, rtol=0)

        coefficients = torch.randn(space.nullity, 50, generator=torch.Generator().manual_seed(seed)).double()
        leaked = torch.linalg.vector_norm(weight.double() @ space.null @ coefficients, dim=0)
        assert (leaked <= space.leakage * torch.linalg.vector_norm(coefficients, dim=0) + 1e-12).all()
        if space.rank < min(shape):
            assert space.leakage == pytest.approx(space.singular_values[space.rank].item(), rel=1e-6, abs=1e-12)


def test_null_directions_fall_in_leakage():
    weight = random_weight(0, (9, 9))
    space = split_dual_space(weight, tolerance=0.6)
    leaks = torch.linalg.vector_norm(weight.double() @ space.null, dim=0)
    assert space.nullity > 2
    assert (leaks[:-1] >= leaks[1:]).all()
    assert not space.exact


def test_approximate_space_takes_what_lies_below_the_share_of_the_largest():
    weight = torch.diag(torch.tensor([4.0, 2.0, 0.3, 0.1]))
    space = split_dual_space(weight, tolerance=0.1)
    assert (space.rank, space.nullity) == (2, 2)
    assert space.leakage == pytest.approx(0.3)


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
    with pytest.warns(UserWarning, match=r"singular values 2 and 3 tie \((1|0\.9999).*choose a tolerance"):
        split_dual_space(weight, tolerance=between)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split_dual_space(weight)
        split_dual_space(weight, tolerance=0.2)
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


def test_refuses_what_is_no_finite_matrix_or_no_share():
    weight = random_weight(0, (3, 4))
    weight[0, 0], weight[2, 1] = float("nan"), float("inf")
    with pytest.raises(ValueError, match="2 of 12 entries inf or nan"):
        split_dual_space(weight)
    with pytest.raises(ValueError, match=r"\(d_out, d_in\), got shape \(5,\)"):
        split_dual_space(torch.zeros(5))
    for tolerance in (1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=rf"in \[0, 1\), got {tolerance}"):
            split_dual_space(torch.eye(3), tolerance=tolerance)
