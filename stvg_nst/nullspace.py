"""The two subspaces that a frozen linear map splits its input into: what it sees, and what it ignores."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

# Singular values closer than this share of the largest are one value in single precision: rounding noise decides
# which of their directions falls on which side of a cut between them.
TIED_SHARE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class DualSpace:
    """Orthonormal bases of the row space and of the null space of a weight (d_out, d_in), float64 on the CPU.

    Args:
        row: (d_in, rank), right singular vectors by falling singular value.
        null: (d_in, nullity), right singular vectors by falling singular value: the last ones leak least.
        singular_values: (min(d_out, d_in),), falling.
        leakage: ``||W null||_2``, the most of a unit vector of the null space that reaches the output. It is
            ``sigma_{rank + 1}``, measured on the basis that is handed out: rounding noise for an exact null space.
        noise: the singular value below which the weight's own rounding cannot tell a direction from an ignored one.
        fingerprint: of the weight, see :func:`fingerprint`.
    """

    row: Tensor
    null: Tensor
    singular_values: Tensor
    leakage: float
    noise: float
    fingerprint: str

    @property
    def rank(self) -> int:
        return self.row.shape[1]

    @property
    def nullity(self) -> int:
        return self.null.shape[1]

    @property
    def exact(self) -> bool:
        """Whether the null space leaks no more than rounding does."""
        return self.leakage <= self.noise


def split_dual_space(weight: Tensor, *, tolerance: float | None = None) -> DualSpace:
    """Split the input space of ``y = W x`` by the singular value decomposition of W, Sec. III-B.

    A direction belongs to the row space if its singular value exceeds the cut. Without a ``tolerance`` the cut is the
    noise of the weight itself, so the null space is exact as far as its numbers can tell: rounding W to its dtype moves
    no singular value by more than ``eps / 2 * ||W||_F`` (Weyl), and twice that leaves room for the arithmetic that
    made W. The customary ``max(d_out, d_in) * eps * sigma_max`` would call every direction of a wide half-precision
    weight null. The decomposition runs in float64 on the CPU whatever the weight's dtype and device, so that the
    same bytes give the same basis.

    Args:
        weight: (d_out, d_in), floating point.
        tolerance: the cut as a share of the largest singular value, in [0, 1). Above the noise it makes an approximate
            null space: read ``leakage``.

    Raises:
        ValueError: the weight is no matrix or not finite, or the tolerance lies outside [0, 1).

    Warns:
        UserWarning: the cut parts singular values that tie, so the two spaces are arbitrary there.
    """
    if weight.ndim != 2:
        raise ValueError(f"a dual space needs a weight (d_out, d_in), got shape {tuple(weight.shape)}")
    if bad := int((~weight.isfinite()).sum()):
        raise ValueError(f"a weight must be finite, got {bad} of {weight.numel()} entries inf or nan; load it again")
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is a share of the largest singular value, in [0, 1), got {tolerance}")

    matrix = weight.detach().cpu().double()
    d_out, d_in = matrix.shape
    # A thin decomposition throws the null space of a wide weight away; of a tall one it has all d_in directions.
    _, sigma, right_t = torch.linalg.svd(matrix, full_matrices=d_out < d_in)
    right = _fix_signs(right_t.T)

    largest = sigma[0].item()
    storage = torch.finfo(weight.dtype).eps * sigma.norm().item()
    arithmetic = max(d_out, d_in) * torch.finfo(torch.float64).eps * largest
    noise = max(storage, arithmetic)
    cut = noise if tolerance is None else tolerance * largest
    rank = int((sigma > cut).sum())
    _warn_of_tie(sigma, rank)

    null = right[:, rank:].contiguous()
    leakage = torch.linalg.matrix_norm(matrix @ null, ord=2).item() if rank < d_in else 0.0
    return DualSpace(right[:, :rank].contiguous(), null, sigma, leakage, noise, fingerprint(weight))


def fingerprint(weight: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and bytes, in hex: equal if and only if the numbers are the same bits."""
    data = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(data.shape)} {data.dtype} ".encode())
    digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _fix_signs(basis: Tensor) -> Tensor:
    """Turn each column so that its entry of largest magnitude is positive; a singular vector's sign is arbitrary."""
    peak = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return basis * peak.sign()


def _warn_of_tie(sigma: Tensor, rank: int) -> None:
    if not 0 < rank < len(sigma):
        return
    above, below, largest = sigma[rank - 1].item(), sigma[rank].item(), sigma[0].item()
    if below > 0 and above - below <= TIED_SHARE * largest:
        warnings.warn(
            f"singular values {rank} and {rank + 1} tie ({above:.9g} and {below:.9g}) where row and null space part, "
            f"so which of their directions is which is arbitrary; choose a tolerance that does not part them",
            stacklevel=3,
        )
