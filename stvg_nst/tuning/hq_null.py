"""The HQ null space: the directions of a layer's input in which clean clips have next to no energy.

The null space of a weight is what the layer ignores of any input. This one is what clean clips never show to the layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from stvg_nst.tuning.clean_inputs import CleanInputs


class HQNullSpace(nn.Module):
    """The projection onto the HQ null space of one layer's input, which is measured once and saved with the adapter.

    Buffers: ``projection`` P (d_in, d_in), zero until it is measured, and ``clips``, the clean clips that it is from.
    """

    projection: Tensor
    clips: Tensor

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.register_buffer("projection", torch.zeros(d_in, d_in))
        self.register_buffer("clips", torch.zeros((), dtype=torch.int64))

    @property
    def is_measured(self) -> bool:
        return bool(self.clips)

    def project(self, weight: Tensor) -> Tensor:
        """``W P`` for W (d_out, d_in): what the map does in the HQ null space, and zero in all other directions."""
        # Rounded to half precision, the product would see clean clips again.
        with torch.autocast(weight.device.type, enabled=False):
            return weight @ self.projection


def measure_null_spaces(spaces: Mapping[str, HQNullSpace], clean: CleanInputs, energy: float) -> None:
    """Set the projection of each layer's space.

    Args:
        spaces: by the layer's name.
        clean: what clean clips show to these layers.
        energy: share of the clean clips' energy that lies outside, in (0, 1).

    Raises:
        ValueError: the clean clips leave a layer no direction; no space is changed.
    """
    projections = {name: hq_null_projection(clean.moments[name], energy) for name in spaces}
    if full := [name for name, projection in projections.items() if not projection.any()]:
        d_in = len(projections[full[0]])
        raise ValueError(
            f"clean clips fill all directions of the input of {len(full)} of {len(spaces)} layers, such as all {d_in} "
            f"of '{full[0]}': no direction has less than {1 - energy:.3g} of their energy; lower "
            f"--model.tuner.init_args.hq_energy, got {energy:g}, or take these layers out of the targets"
        )
    for name, space in spaces.items():
        space.projection.copy_(projections[name])
        space.clips.fill_(clean.clips)


def hq_null_projection(moment: Tensor, energy: float) -> Tensor:
    """The orthogonal projection P (d_in, d_in) onto the HQ null space, float64.

    It is spanned by as many eigenvectors of ``moment``, the mean of ``x x^T`` over clean tokens x, as together hold no
    more than ``1 - energy`` of the trace. So the mean of ``|P x|^2`` is at most that share of the mean of ``|x|^2``.

    Source: Adam-NSCL (Wang et al., CVPR 2021) and AlphaEdit (Fang et al., ICLR 2025), which cut by eigenvalue.
    """
    values, vectors = torch.linalg.eigh(moment)  # from the least energy to the most
    held = values.clamp(min=0).cumsum(0)
    basis = vectors[:, : int((held <= (1 - energy) * held[-1]).sum())]
    return basis @ basis.T


def check_energy(energy: float) -> None:
    """Refuse a share that leaves everything out, or nothing.

    Raises:
        ValueError: so.
    """
    if not 0 < energy < 1:
        raise ValueError(
            f"hq_energy is the share of the clean clips' energy that the HQ null space leaves out, in (0, 1), got "
            f"{energy}; change --model.tuner.init_args.hq_energy"
        )
