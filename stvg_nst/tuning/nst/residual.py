"""The dual-space reparameterisation, Sec. III-D: from coefficients and a gate to a residual, eq. (5)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stvg_nst.nullspace import DualSpace
from stvg_nst.tuning.nst.coefficients import Coefficients

Basis = Literal["svd", "svd_whitened", "random", "learned"]


class DualSpaceReparameterization(nn.Module):
    """Turns coefficients and a gate into the residual of a frozen layer's input, or its image, Sec. III-D.

    ``row_basis`` V_r,k (d_in, k_r) and ``null_basis`` V_n,k (d_in, k_n) are buffers in the frozen weight's dtype, or
    parameters where they are learned. Fixed bases have their images beside them: ``row_image`` W V_r,k (d_out, k_r),
    and ``null_image`` W V_n,k (d_out, k_n) where the null space leaks, else None. All are saved with the adapter: a
    second decomposition of the same weight may give other bases, to which the coefficients mean nothing.

    Args:
        weight: W (d_out, d_in), frozen.
        space: the two subspaces of W.
        rank: directions of each that may be used; fewer where a subspace has fewer, all of them where it is ``None``.
        null_branch: whether there is a null branch at all.
        basis: ``svd`` takes the directions from ``space``; ``svd_whitened`` divides those of the row space by their
            singular values, so that W turns them into unit vectors. The controls take as many random orthonormal
            directions of the whole input space instead, which respect neither subspace: ``random`` leaves them fixed,
            ``learned`` trains them.
    """

    row_basis: Tensor
    null_basis: Tensor
    row_image: Tensor | None
    null_image: Tensor | None

    def __init__(
        self, weight: Tensor, space: DualSpace, *, rank: int | None, null_branch: bool = True, basis: Basis = "svd"
    ) -> None:
        super().__init__()
        row = space.row[:, :rank]
        null = space.null[:, 0 if rank is None else max(space.nullity - rank, 0) :]  # the last directions leak least
        if not null_branch:
            null = null[:, :0]
        if basis == "svd_whitened":
            row = row / space.singular_values[: row.shape[1]]
        elif basis != "svd":
            row, null = random_directions(len(row), row.shape[1], null.shape[1])
        matrix = weight.detach().cpu().double()
        # Of the directions that are used: the last of an approximate null space may be exact though the first are not.
        leak = torch.linalg.matrix_norm(matrix @ null, ord=2).item() if null.shape[1] else 0.0
        self.leaks = (basis == "learned" and bool(null.shape[1])) or leak > space.noise

        row_image = null_image = None
        if basis == "learned":
            self.row_basis = nn.Parameter(row.to(weight.dtype).contiguous())
            self.null_basis = nn.Parameter(null.to(weight.dtype).contiguous(), requires_grad=bool(null.shape[1]))
        else:
            self.register_buffer("row_basis", row.to(weight.dtype).contiguous())
            self.register_buffer("null_basis", null.to(weight.dtype).contiguous())
            row_image = (matrix @ row).to(weight.dtype)
            null_image = (matrix @ null).to(weight.dtype) if self.leaks else None
        self.register_buffer("row_image", row_image)
        self.register_buffer("null_image", null_image)

    def images(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """W V_r,k, and W V_n,k or None where it is zero; weight is W (d_out, d_in)."""
        if self.row_image is not None:
            return self.row_image, self.null_image
        return weight @ self.row_basis, weight @ self.null_basis if self.leaks else None

    def residual(self, gate: Tensor, row: Coefficients, null: Coefficients | None) -> Tensor:
        """dX (B, ..., d_in); gate broadcasts over the coefficients row (B, ..., k_r) and null (B, ..., k_n)."""
        residual = row.gated(gate).mapped(self.row_basis)
        return residual if null is None else residual + null.gated(1 - gate).mapped(self.null_basis)  # Eq. (5)

    def image(self, weight: Tensor, gate: Tensor, row: Coefficients, null: Coefficients | None) -> Tensor:
        """W dX (B, ..., d_out) without going through dX: eq. (1) leaves the null term out, save for its leak.

        Computed as ``W (x + dX)`` the sum would be rounded before W could ignore its null part.
        """
        row_image, null_image = self.images(weight)
        image = row.gated(gate).mapped(row_image)
        if null is None or null_image is None:
            return image
        return image + null.gated(1 - gate).mapped(null_image)

    def energies(self, row: Coefficients, null: Coefficients | None) -> tuple[Tensor, Tensor | None]:
        """Squared norms (B, ...), float32, of the two parts of dX before the gate."""
        return _energy(row, self.row_basis), None if null is None else _energy(null, self.null_basis)


def _energy(coefficients: Coefficients, basis: Tensor) -> Tensor:
    """|V c|^2 (B, ...) as c V^T V c, which needs no (B, ..., d_in); of a learned basis V^T V is no identity."""
    c, v = coefficients.written().float(), basis.float()
    return (F.linear(c, v.T @ v) * c).sum(dim=-1)


def random_directions(d_in: int, row_rank: int, null_rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal directions (d_in, row_rank) and (d_in, null_rank), float64, from the global CPU generator.

    Orthogonal to each other too while d_in has room for both; a rank beyond d_in is the caller's mistake.
    """
    together = row_rank + null_rank
    if together <= d_in:
        basis = torch.linalg.qr(torch.randn(d_in, together, dtype=torch.float64)).Q
        return basis[:, :row_rank], basis[:, row_rank:]
    return tuple(torch.linalg.qr(torch.randn(d_in, rank, dtype=torch.float64)).Q for rank in (row_rank, null_rank))
