"""The two subspaces that a frozen linear map splits its input into: what it sees, and what it ignores."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

RankRule = Literal["exact", "relative", "energy"]
"""Which singular values make the row space; all others make the null space.

``exact``: those above the noise of the weight itself, so that the null space is exact as far as its numbers can tell:
rounding W to its dtype moves no singular value by more than ``eps / 2 * ||W||_F`` (Weyl), and twice that leaves room
for the arithmetic that made W. The customary ``max(d_out, d_in) * eps * sigma_max`` would call every direction of a
wide half-precision weight null.

``relative``: those above the threshold, in (0, 1), as a share of the largest.

``energy``: the fewest whose squares sum to at least the threshold, in (0, 1], as a share of the sum over all.

The latter two make an approximate null space on weights of full rank: read ``sigma_next``, what it leaks at worst.
"""

# Singular values closer than this share of the largest are one value in single precision: rounding noise decides
# which of their directions falls on which side of a cut between them.
TIED_SHARE = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Spectrum:
    """The singular values of a weight, and how many of them a rule counts to its row space.

    Args:
        shape: (d_out, d_in) of the weight.
        singular_values: (min(d_out, d_in),), falling, float64 on the CPU.
        rank: dimensions of the row space.
        noise: the singular value below which the weight's own rounding cannot tell a direction from an ignored one.
    """

    shape: tuple[int, int]
    singular_values: Tensor
    rank: int
    noise: float

    @property
    def nullity(self) -> int:
        """Dimensions of the null space of the layer's input, ``d_in - rank``."""
        return self.shape[1] - self.rank

    @property
    def rank_ratio(self) -> float:
        """``rank / d_in``, the share of the input's directions that the weight sees: ``1 - nullity / d_in``.

        The paper (Sec. IV-C) calls "High-Nullity" the layers with the lowest rank ratio, for their "larger null-space
        capacity", and "Low-Nullity (full rank)" those with the highest, but does not define the ratio. Its null space
        is one of the input (Sec. III-B), so the ratio that falls as that null space takes a larger share has d_in
        below. ``rank / min(d_out, d_in)`` would put a layer 2048 -> 256 of full rank, which ignores seven eighths of
        its input, level with a layer 256 -> 256 that ignores nothing.
        """
        return self.rank / self.shape[1]

    @property
    def sigma_next(self) -> float:
        """``sigma_{rank + 1}``, the most of a unit vector of the null space that reaches the output; 0 without one."""
        return self.singular_values[self.rank].item() if self.rank < len(self.singular_values) else 0.0

    @property
    def exact(self) -> bool:
        """Whether the null space leaks no more than rounding does."""
        return self.sigma_next <= self.noise

    @property
    def exact_nullity(self) -> int:
        """Dimensions that the weight ignores as far as its numbers can tell, whatever the rule counts as null."""
        return self.shape[1] - int((self.singular_values > self.noise).sum())


@dataclass(frozen=True, slots=True, eq=False)
class DualSpace(Spectrum):
    """Orthonormal bases of the row space and of the null space of a weight (d_out, d_in), float64 on the CPU.

    Args:
        row: (d_in, rank), right singular vectors by falling singular value.
        null: (d_in, nullity), right singular vectors by falling singular value: the last ones leak least.
        leakage: ``||W null||_2``, which is ``sigma_next`` measured on the basis that is handed out: rounding noise for
            an exact null space.
        fingerprint: of the weight, see :func:`fingerprint`.
    """

    row: Tensor
    null: Tensor
    leakage: float
    fingerprint: str

    @property
    def exact(self) -> bool:
        """Whether the null space leaks no more than rounding does."""
        return self.leakage <= self.noise


def split_dual_space(weight: Tensor, *, rule: RankRule = "exact", threshold: float | None = None) -> DualSpace:
    """Split the input space of ``y = W x`` by the singular value decomposition of W, Sec. III-B.

    The decomposition runs in float64 on the CPU whatever the weight's dtype and device, so that the same bytes give the
    same basis.

    Args:
        weight: (d_out, d_in), floating point.
        rule, threshold: what belongs to the row space, see :data:`RankRule`; ``exact`` takes no threshold.

    Raises:
        ValueError: the weight is no matrix, of no floating-point type or not finite, or rule and threshold do not fit
            each other.

    Warns:
        UserWarning: the cut parts singular values that tie, so the two spaces are arbitrary there.
    """
    check_rule(rule, threshold)
    matrix = _exact_copy(weight)
    d_out, d_in = matrix.shape
    # A thin decomposition throws the null space of a wide weight away; of a tall one it has all d_in directions.
    _, sigma, right_t = torch.linalg.svd(matrix, full_matrices=d_out < d_in)
    right = _fix_signs(right_t.T)
    noise = _noise(weight, sigma)
    rank = _rank(sigma, noise, rule, threshold)

    null = right[:, rank:].contiguous()
    space = DualSpace(
        shape=(d_out, d_in),
        singular_values=sigma,
        rank=rank,
        noise=noise,
        row=right[:, :rank].contiguous(),
        null=null,
        leakage=torch.linalg.matrix_norm(matrix @ null, ord=2).item() if rank < d_in else 0.0,
        fingerprint=fingerprint(weight),
    )
    warn_of_tie(space)
    return space


def measure_spectrum(weight: Tensor, *, rule: RankRule = "exact", threshold: float | None = None) -> Spectrum:
    """What :func:`split_dual_space` says of a weight (d_out, d_in) without its bases, at a fraction of the cost.

    Raises:
        ValueError: as there.
    """
    check_rule(rule, threshold)
    matrix = _exact_copy(weight)
    # A transpose has the same singular values, and LAPACK finds those of a tall matrix in a seventh of the time.
    sigma = torch.linalg.svdvals(matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T)
    noise = _noise(weight, sigma)
    return Spectrum((matrix.shape[0], matrix.shape[1]), sigma, _rank(sigma, noise, rule, threshold), noise)


def weight_matrix(layer: nn.Module) -> Tensor:
    """The weight (d_out, d_in) of a layer that maps every position by itself: linear, or a convolution of size 1.

    It is a view that shares memory, and gradients, with the layer's weight.

    Raises:
        ValueError: the layer is none of ``nn.Linear`` and ``nn.Conv1d`` to ``nn.Conv3d``, or its kernel covers several
            positions, or it has groups, of which each would have a null space of its own.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        raise ValueError(f"expected nn.Linear or a convolution with kernel size 1, got {type(layer).__name__}")
    if set(layer.kernel_size) != {1} or layer.groups != 1:
        raise ValueError(
            f"a convolution must have kernel size 1 and no groups to be one matrix (d_out, d_in), got kernel size "
            f"{tuple(layer.kernel_size)} and {layer.groups} group(s); leave it out"
        )
    return layer.weight.flatten(1)


def fingerprint(weight: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and bytes, in hex: equal if and only if the numbers are the same bits."""
    data = weight.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(data.shape)} {data.dtype} ".encode())
    digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_rule(rule: RankRule, threshold: float | None) -> None:
    """Refuse a rule that does not exist, and a threshold that does not fit it.

    Raises:
        ValueError: the rule is unknown, or the threshold does not fit it.
    """
    if rule not in get_args(RankRule):
        raise ValueError(f"rule must be one of {', '.join(get_args(RankRule))}, got {rule!r}")
    if rule == "exact":
        if threshold is not None:
            raise ValueError(
                f"rule 'exact' cuts at the weight's own noise and takes no threshold, got {threshold}; leave it out, "
                f"or choose rule 'relative' or 'energy'"
            )
        return
    meaning, interval = (
        ("a share of the largest singular value", "(0, 1)")
        if rule == "relative"
        else ("a share of the sum of squared singular values", "(0, 1]")
    )
    # Written so that nan fails too.
    if threshold is None or not (0 < threshold < 1 or (rule == "energy" and threshold == 1)):
        raise ValueError(f"rule '{rule}' needs a threshold, {meaning}, in {interval}, got {threshold}")


def warn_of_tie(space: Spectrum) -> None:
    """Warn the caller's caller where row and null space part two singular values that are equal but for rounding."""
    sigma, rank = space.singular_values, space.rank
    if not 0 < rank < len(sigma):
        return
    above, below, largest = sigma[rank - 1].item(), sigma[rank].item(), sigma[0].item()
    if below > 0 and above - below <= TIED_SHARE * largest:
        warnings.warn(
            f"singular values {rank} and {rank + 1} tie ({above:.9g} and {below:.9g}) where row and null space part, "
            f"so which of their directions is which is arbitrary; choose a threshold that does not part them",
            stacklevel=3,
        )


def _exact_copy(weight: Tensor) -> Tensor:
    """The weight in float64 on the CPU, without a gradient, once it is known to be a finite matrix."""
    if weight.ndim != 2 or not weight.numel():
        raise ValueError(f"a dual space needs a weight (d_out, d_in), got shape {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise ValueError(f"a dual space needs a floating-point weight, got {weight.dtype}; leave the layer out")
    if bad := int((~weight.isfinite()).sum()):
        raise ValueError(f"a weight must be finite, got {bad} of {weight.numel()} entries inf or nan; load it again")
    return weight.detach().cpu().double()


def _noise(weight: Tensor, sigma: Tensor) -> float:
    precision = torch.finfo(weight.dtype)
    # Below the smallest normal number the steps between numbers no longer shrink with them.
    step = precision.eps * precision.tiny * math.sqrt(weight.numel())
    storage = max(precision.eps * _norm(sigma), step)
    arithmetic = max(weight.shape) * torch.finfo(torch.float64).eps * sigma[0].item()
    return max(storage, arithmetic)


def _rank(sigma: Tensor, noise: float, rule: RankRule, threshold: float | None) -> int:
    if rule == "energy":
        assert threshold is not None, "checked by check_rule"
        shares = sigma / _power_of_two(sigma)
        held = torch.cat([sigma.new_zeros(1), shares.square().cumsum(0)])  # by the first 0, 1, 2, ... directions
        return int((held < threshold * held[-1]).sum())
    cut = noise if threshold is None else threshold * sigma[0].item()
    return int((sigma > cut).sum())


def _norm(sigma: Tensor) -> float:
    scale = _power_of_two(sigma)
    return (sigma / scale).norm().item() * scale


def _power_of_two(sigma: Tensor) -> float:
    """What divides the singular values without rounding, so that their squares neither vanish nor overflow."""
    exponent = int(torch.frexp(sigma[0]).exponent)
    return math.ldexp(1.0, min(max(exponent, -1000), 1000))


def _fix_signs(basis: Tensor) -> Tensor:
    """Turn each column so that its entry of largest magnitude is positive; a singular vector's sign is arbitrary."""
    peak = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))
    return basis * peak.sign()
