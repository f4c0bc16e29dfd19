"""The dual-space reparameterisation: which directions a layer may use."""

from __future__ import annotations

import pytest
import torch

from stvg_nst.nullspace import split_dual_space
from stvg_nst.tuning.nst.residual import DualSpaceReparameterization


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(6, 10, generator=torch.Generator().manual_seed(0))


def test_whitened_directions_keep_the_row_space_and_their_images_have_length_one(weight):
    space = split_dual_space(weight)
    plain, whitened = (
        DualSpaceReparameterization(weight, space, rank=4, basis=basis) for basis in ("svd", "svd_whitened")
    )
    images = weight @ whitened.row_basis
    torch.testing.assert_close(images.T @ images, torch.eye(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(whitened.row_image, images)
    assert torch.linalg.matrix_rank(torch.cat([plain.row_basis, whitened.row_basis], dim=1)) == 4
    assert torch.equal(plain.null_basis, whitened.null_basis) and not whitened.leaks


def test_without_a_rank_a_layer_has_all_directions_of_both_spaces(weight):
    space = DualSpaceReparameterization(weight, split_dual_space(weight), rank=None)
    assert space.row_basis.shape == (10, 6) and space.null_basis.shape == (10, 4)
