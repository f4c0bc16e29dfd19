"""The projection onto the directions in which clean clips have next to no energy."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.tuning.clean_inputs import CleanInputs
from stvg_nst.tuning.hq_null import HQNullSpace, check_energy, hq_null_projection, measure_null_spaces


def rotated(energies: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """A moment with these energies along random orthonormal directions, and the directions."""
    torch.manual_seed(0)
    directions = torch.linalg.qr(torch.randn(len(energies), len(energies), dtype=torch.float64)).Q
    return directions @ torch.diag(torch.tensor(energies, dtype=torch.float64)) @ directions.T, directions


@pytest.mark.parametrize(("energy", "kept"), [(0.5, 3), (0.89, 3), (0.91, 2), (0.98, 2), (0.995, 1)])
def test_the_fewest_directions_that_hold_the_energy_are_left_out(energy, kept):
    moment, directions = rotated([90.0, 9.0, 1.0, 0.0])
    expected = directions[:, 4 - kept :]
    found = hq_null_projection(moment, energy)
    torch.testing.assert_close(found, expected @ expected.T, atol=1e-12, rtol=0)


def test_clean_tokens_keep_no_more_energy_than_is_asked_for():
    torch.manual_seed(0)
    tokens = torch.randn(500, 24, dtype=torch.float64) @ torch.randn(24, 24, dtype=torch.float64)
    for energy in (0.5, 0.9, 0.99):
        projection = hq_null_projection(tokens.T @ tokens / 500, energy)
        assert projection.any()
        assert (tokens @ projection).square().sum() <= (1 - energy) * tokens.square().sum()
        torch.testing.assert_close(projection @ projection, projection)


def test_where_clean_clips_show_nothing_nothing_is_left_out():
    torch.testing.assert_close(hq_null_projection(torch.zeros(3, 3).double(), 0.9), torch.eye(3).double())


def test_a_layer_that_clean_clips_fill_is_named_and_no_space_is_changed():
    spaces = {"empty": HQNullSpace(4), "full": HQNullSpace(4)}
    clean = CleanInputs({"empty": torch.diag(torch.tensor([1.0, 0, 0, 0])).double(), "full": torch.eye(4).double()}, 7)
    with pytest.raises(
        ValueError, match=r"of 1 of 2 layers, such as all 4 of 'full': no direction .*hq_energy, got 0.9, or take"
    ):
        measure_null_spaces(spaces, clean, 0.9)
    assert not any(space.is_measured or space.projection.any() for space in spaces.values())
    measure_null_spaces(spaces, clean, 0.7)
    assert {int(space.clips) for space in spaces.values()} == {7}


def test_half_precision_does_not_round_the_projection():
    space = HQNullSpace(24)
    torch.manual_seed(0)
    tokens = torch.randn(500, 12) @ torch.randn(12, 24)
    moment = (tokens.T @ tokens).double() / 500
    measure_null_spaces({"layer": space}, CleanInputs({"layer": moment}, 1), 0.999)
    weight = torch.randn(5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        projected = space.project(weight)
    assert projected.dtype == torch.float32
    assert (tokens @ projected.T).norm() < 0.1 * (tokens @ weight.T).norm()


@pytest.mark.parametrize("energy", [0.0, 1.0, 99.0, float("nan")])
def test_a_share_that_is_none_is_refused(energy):
    with pytest.raises(ValueError, match=r"in \(0, 1\), got .*; change --model.tuner.init_args.hq_energy"):
        check_energy(energy)
